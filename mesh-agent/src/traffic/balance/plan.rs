//! How the endpoints of a service port are balanced: laid out once, so that a request does little.

use std::sync::Arc;

use super::hash::mix;
use super::pool::{Picked, Pool, Rules, Trust};
use super::table::Table;
use super::tier::{Ask, Fleet, Member, Tier};

/// The endpoints of one address family.
#[derive(Debug)]
pub struct Plan {
    rules: Rules,
    /// One per subset that has endpoints and a weight; a single one where there are no subsets.
    pools: Vec<Pool>,
    /// Weight of all subsets.
    total: u64,
    /// Indexes of all that take part, in ascending order.
    indexes: Vec<u32>,
}

impl Plan {
    /// Lays out subsets: the weight of each, and its endpoints. Tables and turns of `old` are kept where they fit.
    #[must_use]
    pub fn new(rules: Rules, subsets: &[(u32, Vec<Member>)], old: Option<&Self>) -> Self {
        let tiers = || old.into_iter().flat_map(Self::tiers);
        let tables: Vec<Arc<Table>> = tiers().filter_map(Tier::table).map(Arc::clone).collect();
        let turn = tiers().next().map_or(0, Tier::turn);
        let pools: Vec<Pool> = subsets
            .iter()
            .filter(|(weight, _)| *weight > 0)
            .filter_map(|(weight, members)| Pool::new(&rules, *weight, members, &tables, turn))
            .collect();
        let members = pools.iter().flat_map(Pool::tiers).flat_map(Tier::members);
        let mut indexes: Vec<u32> = members.map(|member| member.index).collect();
        indexes.sort_unstable();
        Self {
            rules,
            indexes,
            total: pools.iter().map(|pool| u64::from(pool.weight())).sum(),
            pools,
        }
    }

    /// By what rules it chooses.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The subsets that take part.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Indexes of all that take part.
    #[must_use]
    pub fn indexes(&self) -> &[u32] {
        &self.indexes
    }

    /// Whether an endpoint takes part.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        self.indexes.binary_search(&index).is_ok()
    }

    /// Chooses an endpoint: a subset by its weight, then by nearness and health, then by the algorithm. Where a subset
    /// has nobody, the next one takes its place. With a hash, equal hashes choose equally.
    pub fn pick<F: Fleet>(&self, ask: &mut Ask, fleet: &F, trust: Trust) -> Option<Picked> {
        if let [pool] = self.pools.as_slice() {
            return pool.pick(&self.rules, ask, fleet, trust);
        }
        let number = ask
            .hash
            .map_or_else(|| ask.dice.roll(), |hash| mix(hash.rotate_left(32)));
        let mut left = super::hash::scale(number, self.total);
        let first = self.pools.iter().position(|pool| {
            let is_it = left < u64::from(pool.weight());
            left = left.saturating_sub(u64::from(pool.weight()));
            is_it
        })?;
        let (before, after) = self.pools.split_at_checked(first)?;
        after
            .iter()
            .chain(before)
            .find_map(|pool| pool.pick(&self.rules, ask, fleet, trust))
    }

    fn tiers(&self) -> impl Iterator<Item = &Tier> {
        self.pools.iter().flat_map(Pool::tiers)
    }
}

#[cfg(test)]
mod tests;

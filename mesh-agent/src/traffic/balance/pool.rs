//! Endpoints of one subset, from near to far: how health decides among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::hash::scale;
use super::locality::{self, Capacity, DISTANCES};
use super::table::Table;
use super::tier::{Ask, Fleet, Member, Tier};
use crate::state::traffic_policy::balancing::Algorithm;

/// How long it is relied on how many were well. Whoever is picked was looked at in this moment all the same; only the
/// shares of distances, and whether there is a panic, lag behind by so much.
const LOOK_NS: u64 = 10_000_000;

/// By what rules one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How one is picked among equals.
    pub algorithm: Algorithm,
    /// Percent of the weight that must be well, so that health counts; 0: it always does. Of several distances it counts
    /// as well if those that are well can bear all the traffic.
    pub panic_percent: u32,
    /// A distance bears all its traffic while so many percent of its weight are well.
    pub min_well_percent: u32,
}

/// Whom a choice trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those that are well; all in a panic.
    Well,
    /// Anyone, for want of better.
    Anyone,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Index in the list of the service port.
    pub index: u32,
    /// How far away it is.
    pub distance: usize,
    /// Whether health was ignored, because too few are well or nobody is.
    pub is_panic: bool,
}

/// Endpoints of one subset. There is at least one.
#[derive(Debug)]
pub struct Pool {
    weight: u32,
    /// From near to far; none is empty.
    tiers: Vec<Tier>,
    looked_ns: AtomicU64,
}

impl Pool {
    /// Lays out endpoints; none for none. `weight` is the share of the subset.
    #[must_use]
    pub fn new(
        rules: &Rules,
        weight: u32,
        members: &[Member],
        old: &[Arc<Table>],
        turn: u32,
    ) -> Option<Self> {
        let tiers: Vec<Tier> = (0..DISTANCES)
            .filter_map(|distance| {
                let here: Vec<Member> = members
                    .iter()
                    .filter(|member| member.distance == distance && member.weight > 0)
                    .copied()
                    .collect();
                (!here.is_empty()).then(|| Tier::new(rules.algorithm, here, old, turn))
            })
            .collect();
        (!tiers.is_empty()).then(|| Self {
            weight,
            tiers,
            looked_ns: AtomicU64::new(0),
        })
    }

    /// The share of the subset.
    #[must_use]
    pub const fn weight(&self) -> u32 {
        self.weight
    }

    /// Its endpoints, from near to far.
    #[must_use]
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// Chooses an endpoint.
    pub(super) fn pick<F: Fleet>(
        &self,
        rules: &Rules,
        ask: &mut Ask,
        fleet: &F,
        trust: Trust,
    ) -> Option<Picked> {
        let is_usable = |index| fleet.is_open(index) && fleet.is_well(index);
        let is_open = |index| fleet.is_open(index);
        match self.tiers.as_slice() {
            _ if trust == Trust::Anyone => self.pick_from(0, true, |tier| {
                tier.pick(rules.algorithm, ask, fleet, is_open)
            }),
            [tier] if rules.panic_percent == 0 => {
                let index = tier.pick(rules.algorithm, ask, fleet, is_usable)?;
                Some(Picked {
                    index,
                    distance: tier.distance(),
                    is_panic: false,
                })
            }
            _ => {
                let number = ask.hash.map_or_else(|| ask.dice.roll(), super::hash::mix);
                self.look(ask.now_ns, fleet);
                let (first, is_panic) = self.choose(rules, number)?;
                self.pick_from(first, is_panic, |tier| {
                    if is_panic {
                        tier.pick(rules.algorithm, ask, fleet, is_open)
                    } else {
                        tier.pick(rules.algorithm, ask, fleet, is_usable)
                    }
                })
            }
        }
    }

    /// Which distance is asked first, and whether there is a panic; none if nobody is well.
    fn choose(&self, rules: &Rules, number: u64) -> Option<(usize, bool)> {
        let mut capacities = [Capacity::default(); DISTANCES];
        for (capacity, tier) in capacities.iter_mut().zip(&self.tiers) {
            *capacity = Capacity {
                well: tier.well(),
                total: tier.total(),
            };
        }
        let well: u64 = capacities.iter().map(|it| it.well).sum();
        let total: u64 = capacities.iter().map(|it| it.total).sum();
        let is_low = well * 100 < total * u64::from(rules.panic_percent) && well > 0;
        // As Envoy's priority levels: who loses a near place is not in a panic while a far one can take over.
        let is_borne =
            || self.tiers.len() > 1 && locality::is_enough(&capacities, rules.min_well_percent);
        if is_low && !is_borne() {
            // Neither health nor nearness is relied on: all bear the load together.
            let mut left = scale(number, total);
            let first = capacities.iter().position(|it| {
                let is_it = left < it.total;
                left = left.saturating_sub(it.total);
                is_it
            });
            return first.map(|first| (first, true));
        }
        let first = locality::choose(&capacities, rules.min_well_percent, number)?;
        Some((first, false))
    }

    /// Asks one distance, then all others from near to far.
    fn pick_from(
        &self,
        first: usize,
        is_panic: bool,
        mut pick: impl FnMut(&Tier) -> Option<u32>,
    ) -> Option<Picked> {
        let others = self.tiers.iter().enumerate();
        let others = others.filter(|(at, _)| *at != first).map(|(_, tier)| tier);
        self.tiers
            .get(first)
            .into_iter()
            .chain(others)
            .find_map(|tier| {
                pick(tier).map(|index| Picked {
                    index,
                    distance: tier.distance(),
                    is_panic,
                })
            })
    }

    /// Looks how many are well, if nobody has lately.
    fn look<F: Fleet>(&self, now_ns: u64, fleet: &F) {
        let looked = self.looked_ns.load(Ordering::Relaxed);
        if now_ns.saturating_sub(looked) < LOOK_NS && looked != 0 {
            return;
        }
        let order = Ordering::Relaxed;
        let is_mine = self
            .looked_ns
            .compare_exchange(looked, now_ns.max(1), order, order)
            .is_ok();
        if is_mine {
            for tier in &self.tiers {
                tier.look(fleet);
            }
        }
    }
}

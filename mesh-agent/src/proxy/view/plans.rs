//! The endpoints of a service port, laid out for choices.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use super::{Endpoint, SharedTable};
use crate::proxy::policy::balancing::{Balancing, Subsets};
use crate::state::endpoint::Locality;
use crate::state::traffic_policy::balancing::Subset;
use crate::traffic::balance::hash;
use crate::traffic::balance::plan::Plan;
use crate::traffic::balance::pool::Rules;
use crate::traffic::balance::tier::Member;

/// The plans of one choice of subsets: IPv4, IPv6.
pub(crate) type Plans = [Plan; 2];

/// What is laid out for routes that want a part of the endpoints, by the address of what each wants: at most one for
/// each policy that says so. No address is used again while its row is here.
type OfRoutes = SharedTable<usize, (Weak<Vec<Subset>>, Arc<Plans>)>;

/// Layouts of a service port.
#[derive(Debug)]
pub(crate) struct Layouts {
    rules: Rules,
    /// Those that take part at all.
    members: [Vec<Member>; 2],
    /// As the service wants it.
    own: Plans,
    /// As routes want it; made when they are first asked for.
    of_routes: ArcSwap<OfRoutes>,
    /// What earlier views have laid out for routes: tables and turns go on from there.
    former: OfRoutes,
}

impl Layouts {
    /// Lays out `endpoints` for callers at `here`. Tables of `old` are kept where they fit.
    pub(super) fn new(
        rules: Rules,
        balancing: Option<&Balancing>,
        endpoints: &[Arc<Endpoint>],
        here: &Locality,
        old: Option<&Self>,
    ) -> Self {
        let nowhere = Locality::default();
        let member = |(index, endpoint): (u32, &Arc<Endpoint>)| {
            let there = endpoint.object.spec.locality.as_ref().unwrap_or(&nowhere);
            let is_on_node = endpoint.workload.is_some();
            Member {
                index,
                weight: endpoint.weight,
                identity: hash::identity(endpoint.address),
                distance: balancing.map_or(0, |it| it.distance(here, there, is_on_node)),
            }
        };
        let members = [true, false].map(|is_v4| {
            let numbered = (0_u32..).zip(endpoints);
            numbered
                .filter(|(_, it)| it.address.is_ipv4() == is_v4 && it.object.is_offered())
                .map(member)
                .collect()
        });
        let subsets = balancing.and_then(|it| it.subsets.as_ref());
        let old_own = old.map(|old| &old.own);
        let own = plans(
            rules,
            &members,
            endpoints,
            subsets.map(Arc::as_ref),
            old_own,
        );
        Self {
            rules,
            members,
            own,
            of_routes: ArcSwap::default(),
            former: old.map_or_else(OfRoutes::default, Self::so_far),
        }
    }

    /// The plans as the service wants them.
    pub(crate) const fn own(&self) -> &Plans {
        &self.own
    }

    /// Indexes of the endpoints that take part, whatever subset they are in.
    pub(crate) fn members(&self) -> impl Iterator<Item = usize> {
        let members = self.members.iter().flatten();
        let members = members.filter(|member| member.weight > 0);
        members.filter_map(|member| usize::try_from(member.index).ok())
    }

    /// The plans for the subsets that a route wants.
    pub(crate) fn of_route(&self, wanted: &Subsets, endpoints: &[Arc<Endpoint>]) -> Arc<Plans> {
        let key = Arc::as_ptr(wanted).addr();
        let find = |kept: &OfRoutes| kept.get(&key).map(|(_, plans)| Arc::clone(plans));
        if let Some(plans) = find(&self.of_routes.load()) {
            return plans;
        }
        let former = find(&self.former);
        let made = Arc::new(plans(
            self.rules,
            &self.members,
            endpoints,
            Some(wanted),
            former.as_deref(),
        ));
        self.of_routes.rcu(|kept| {
            let mut kept = OfRoutes::clone(kept);
            // Now and then, so that it costs little.
            if kept.len().is_power_of_two() {
                forget_unwanted(&mut kept);
            }
            if !kept.contains_key(&key) {
                kept.insert(key, (Arc::downgrade(wanted), Arc::clone(&made)));
            }
            kept
        });
        // Of two who make one, the first is kept.
        find(&self.of_routes.load()).unwrap_or(made)
    }

    /// What has been laid out for routes up to now.
    fn so_far(&self) -> OfRoutes {
        let made = OfRoutes::clone(&self.of_routes.load());
        let mut all = made.union(self.former.clone());
        forget_unwanted(&mut all);
        all
    }
}

/// Forgets what was laid out for policies that are gone.
fn forget_unwanted(layouts: &mut OfRoutes) {
    layouts.retain(|_, (wanted, _)| wanted.strong_count() > 0);
}

fn plans(
    rules: Rules,
    members: &[Vec<Member>; 2],
    endpoints: &[Arc<Endpoint>],
    subsets: Option<&Vec<Subset>>,
    old: Option<&Plans>,
) -> Plans {
    let [v4, v6] = members;
    let (old_v4, old_v6) = old.map(|[v4, v6]| (v4, v6)).unzip();
    let plan = |members: &Vec<Member>, old: Option<&Plan>| {
        let Some(subsets) = subsets else {
            return Plan::new(rules, &[(1, members.clone())], old);
        };
        let parts: Vec<(u32, Vec<Member>)> = subsets
            .iter()
            .map(|subset| {
                let is_in = |member: &&Member| {
                    usize::try_from(member.index)
                        .ok()
                        .and_then(|index| endpoints.get(index))
                        .is_some_and(|endpoint| endpoint.is_in(subset))
                };
                (
                    subset.weight,
                    members.iter().filter(is_in).copied().collect(),
                )
            })
            .collect();
        Plan::new(rules, &parts, old)
    };
    [plan(v4, old_v4), plan(v6, old_v6)]
}

#[cfg(test)]
mod tests;

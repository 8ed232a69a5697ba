//! The endpoints of a service port, laid out for choices.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Endpoint;
use crate::proxy::policy::balancing::{Balancing, Subsets};
use crate::state::endpoint::Locality;
use crate::state::traffic_policy::balancing::Subset;
use crate::traffic::balance::hash;
use crate::traffic::balance::plan::Plan;
use crate::traffic::balance::pool::Rules;
use crate::traffic::balance::tier::Member;

/// Most layouts that are kept for routes that want a part of the endpoints. A further one takes the place of the oldest.
const MAX_LAYOUTS: usize = 16;

/// The plans of one choice of subsets: IPv4, IPv6.
pub(crate) type Plans = [Plan; 2];

/// Layouts of a service port.
#[derive(Debug)]
pub(crate) struct Layouts {
    rules: Rules,
    /// Those that take part at all.
    members: [Vec<Member>; 2],
    /// As the service wants it.
    own: Plans,
    /// As routes want it; made when they are first asked for.
    of_routes: ArcSwap<Vec<(Subsets, Arc<Plans>)>>,
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
        let old = old.map(|old| &old.own);
        let own = plans(rules, &members, endpoints, subsets.map(Arc::as_ref), old);
        Self {
            rules,
            members,
            own,
            of_routes: ArcSwap::default(),
        }
    }

    /// The plans as the service wants them.
    pub(crate) const fn own(&self) -> &Plans {
        &self.own
    }

    /// The plans for the subsets that a route wants.
    pub(crate) fn of_route(&self, wanted: &Subsets, endpoints: &[Arc<Endpoint>]) -> Arc<Plans> {
        let find = |kept: &[(Subsets, Arc<Plans>)]| {
            let kept = kept.iter().find(|(subsets, _)| subsets == wanted);
            kept.map(|(_, plans)| Arc::clone(plans))
        };
        if let Some(plans) = find(&self.of_routes.load()) {
            return plans;
        }
        let made = plans(self.rules, &self.members, endpoints, Some(wanted), None);
        let made = Arc::new(made);
        self.of_routes.rcu(|kept| {
            let mut kept = Vec::clone(kept);
            if find(&kept).is_none() {
                if kept.len() >= MAX_LAYOUTS {
                    kept.remove(0);
                }
                kept.push((Arc::clone(wanted), Arc::clone(&made)));
            }
            kept
        });
        made
    }
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

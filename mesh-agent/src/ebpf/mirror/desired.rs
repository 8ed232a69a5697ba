//! What the kernel's maps should hold for a snapshot. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::address::Address;
use mesh_common::balance::Balancing;
use mesh_common::egress::EgressKey;
use mesh_common::endpoint::{Endpoint, State};
use mesh_common::policy::{Policy, PolicyKey};
use mesh_common::service::{MAX_SLOTS, Mode, ServiceKey};
use mesh_common::workload::{Caller, Workload};

use crate::state::Ids;
use crate::state::Snapshot;
use crate::state::endpoint::Endpoint as EndpointObject;
use crate::state::id::Subject;
use crate::state::object::{Kind, ObjectKey};
use crate::state::service::Balancing as BalancingSpec;
use crate::state::service::{Port, Protocol, Service as ServiceObject};
use crate::state::traffic_policy::TrafficPolicy;
use crate::state::traffic_policy::balancing::DEFAULT_PANIC_THRESHOLD;
use crate::state::workload::Workload as WorkloadObject;
use crate::state::workload::{Egress, FailMode};

mod exits;
#[cfg(test)]
mod tests;

/// Which workloads the kernel steers, and how it recognises them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enrolled {
    /// Where each enrolled workload is found.
    pub places: BTreeMap<ObjectKey, Place>,
    /// Whether the node accelerates workloads that ask for it.
    pub is_accelerated: bool,
    /// Whether the agent answers questions for names of workloads that do not refuse.
    pub answers_names: bool,
}

/// How the kernel recognises a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// By the cookie of its network namespace.
    Netns(u64),
    /// By the id of its cgroup, in the agent's own network namespace.
    Cgroup(u64),
}

/// What the maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// `POLICY`.
    pub policies: BTreeMap<PolicyKey, Arc<Policy>>,
    /// `ENDPOINTS`; each has a count in `OPEN`.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// `SLOTS` by number of the service's port, whatever the generation; each port has a cursor in `CURSORS`.
    pub slots: BTreeMap<u32, Slots>,
    /// `SERVICES`, without the generation of their slots.
    pub services: BTreeMap<ServiceKey, ServicePort>,
    /// `IDENTITIES`.
    pub identities: BTreeMap<Address, Workload>,
    /// `WORKLOADS`.
    pub workloads: BTreeMap<u64, Workload>,
    /// `CGROUPS`.
    pub cgroups: BTreeMap<u64, Workload>,
    /// Keys of `EGRESS`.
    pub exits: BTreeSet<EgressKey>,
}

/// The endpoints of a service port, by slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// For IPv4 sockets.
    pub v4: Vec<u32>,
    /// For IPv6 sockets.
    pub v6: Vec<u32>,
}

/// A service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Number of the service.
    pub id: u32,
    /// Number of the port.
    pub port_id: u32,
    /// How its connections travel.
    pub mode: Mode,
    /// How an endpoint is picked.
    pub balancing: Balancing,
}

impl Desired {
    /// What the maps should hold for some objects of `snapshot`, policies apart. What has no number yet is left out: the
    /// kernel could not name it.
    #[must_use]
    pub fn of<'a>(
        snapshot: &'a Snapshot,
        enrolled: &Enrolled,
        services: impl Iterator<Item = (&'a ObjectKey, &'a Arc<ServiceObject>)>,
        workloads: impl Iterator<Item = (&'a ObjectKey, &'a Arc<WorkloadObject>)>,
    ) -> Self {
        let mut desired = Self::default();
        for (key, service) in services {
            let endpoints: Vec<_> = snapshot.endpoints_of(key).collect();
            desired.add_service(snapshot, key, service, &endpoints);
        }
        for (key, workload) in workloads {
            desired.add_workload(&snapshot.ids, key, workload, enrolled);
        }
        desired
    }

    fn add_service(
        &mut self,
        snapshot: &Snapshot,
        key: &ObjectKey,
        service: &ServiceObject,
        endpoints: &[&Arc<EndpointObject>],
    ) {
        let ids = &snapshot.ids;
        let policy = snapshot.traffic_policy_for(Kind::Service, key, None);
        let takes_critical = is_panic(policy.map(|it| &**it), endpoints);
        let id = ids.number(&Subject::Service(key.clone()));
        for port in &service.spec.ports {
            let port_id = ids.number(&Subject::Port(key.clone(), port.name.clone()));
            if id == 0 || port_id == 0 {
                continue;
            }
            let value = ServicePort {
                id,
                port_id,
                mode: if snapshot.is_direct(service, port) || port.protocol == Protocol::Udp {
                    Mode::Direct
                } else {
                    Mode::Proxy
                },
                balancing: balancing(service, policy.map(|it| &**it)),
            };
            for address in service.virtual_addresses() {
                // Two services with one address are refused by the store; should it happen, the first one stays.
                self.services
                    .entry(ServiceKey {
                        address: Address::from(*address),
                        port: port.port,
                        protocol: port.protocol.transport(),
                        padding: 0,
                    })
                    .or_insert(value);
            }
            self.add_slots(ids, (port, port_id), endpoints, takes_critical);
        }
        if service.spec.headless {
            self.exits.extend(exits::of_service(service, endpoints));
        }
    }

    fn add_slots(
        &mut self,
        ids: &Ids,
        (port, port_id): (&Port, u32),
        endpoints: &[&Arc<EndpointObject>],
        takes_critical: bool,
    ) {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for endpoint in endpoints {
            let id = ids.number(&Subject::Endpoint(endpoint.key(), port.name.clone()));
            if id == 0 {
                continue;
            }
            let spec = &endpoint.spec;
            let value = Endpoint {
                address: spec.address.into(),
                port: spec.port_of(port),
                state: if endpoint.is_offered() {
                    State::Ready
                } else {
                    State::Draining
                } as u8,
                padding: 0,
                weight: endpoint.weight().max(1),
                port_id,
            };
            self.endpoints.insert(id, value);
            if is_candidate(endpoint, takes_critical) {
                let family = if value.address.is_v4() {
                    &mut v4
                } else {
                    &mut v6
                };
                family.push((id, endpoint.weight()));
            }
        }
        let slots = Slots {
            v4: interleave(&v4),
            v6: interleave(&v6),
        };
        self.slots.insert(port_id, slots);
    }

    fn add_workload(
        &mut self,
        ids: &Ids,
        key: &ObjectKey,
        workload: &WorkloadObject,
        enrolled: &Enrolled,
    ) {
        let place = enrolled.places.get(key);
        let value = Workload {
            id: ids.number(&Subject::Workload(key.clone())),
            flags: flags(workload, enrolled, place.is_some()),
            caller: caller(ids, key, workload),
            ipv4: first(workload, IpAddr::is_ipv4),
            ipv6: first(workload, IpAddr::is_ipv6),
        };
        if value.id == 0 {
            return;
        }
        for address in &workload.spec.addresses {
            // Addresses are unique on a node; should two workloads claim one, the first one stays.
            self.identities
                .entry(Address::from(*address))
                .or_insert(value);
        }
        if place.is_some() {
            self.exits.extend(exits::of_workload(value.id, workload));
        }
        match place {
            // So it is with a place.
            Some(Place::Netns(cookie)) => _ = self.workloads.entry(*cookie).or_insert(value),
            Some(Place::Cgroup(id)) => _ = self.cgroups.entry(*id).or_insert(value),
            None => {}
        }
    }
}

/// Everything that the maps should hold for `snapshot`.
#[cfg(test)]
pub(crate) fn desired(snapshot: &Snapshot, enrolled: &Enrolled) -> Desired {
    super::basis::Basis::new(Arc::new(snapshot.clone()), enrolled).desired()
}

/// The identity of a workload, in numbers.
#[must_use]
pub fn caller(ids: &Ids, key: &ObjectKey, workload: &WorkloadObject) -> Caller {
    Caller {
        namespace: ids.number(&Subject::Namespace(key.namespace.clone())),
        service_account: ids.number(&Subject::ServiceAccount(
            workload.spec.service_account.clone(),
        )),
    }
}

/// The endpoints of a service that the kernel may pick.
pub fn candidates<'a>(
    snapshot: &Snapshot,
    service: &ObjectKey,
    endpoints: &'a [&Arc<EndpointObject>],
) -> impl Iterator<Item = &'a Arc<EndpointObject>> {
    let policy = snapshot.traffic_policy_for(Kind::Service, service, None);
    let takes_critical = is_panic(policy.map(|it| &**it), endpoints);
    let candidates = endpoints.iter().copied();
    candidates.filter(move |it| is_candidate(it, takes_critical))
}

/// Whether it takes new connections, and is well or no worse than most.
fn is_candidate(endpoint: &EndpointObject, takes_critical: bool) -> bool {
    takes_connections(endpoint) && (takes_critical || !endpoint.has_failed())
}

/// Whether an endpoint takes new connections, as far as people say.
fn takes_connections(endpoint: &EndpointObject) -> bool {
    endpoint.is_offered() && endpoint.weight() > 0
}

/// Whether so few endpoints are well that the others take their share too: none, or less than the threshold of the
/// policy.
fn is_panic(policy: Option<&TrafficPolicy>, endpoints: &[&Arc<EndpointObject>]) -> bool {
    let all = endpoints.iter().filter(|it| takes_connections(it));
    let well = all.clone().filter(|it| !it.has_failed()).count();
    let threshold = policy
        .and_then(|it| it.spec.load_balancing.as_ref()?.panic_threshold)
        .unwrap_or(DEFAULT_PANIC_THRESHOLD);
    well == 0 || well * 100 < all.count() * threshold as usize
}

/// What the policy says, else the service. What the kernel cannot do goes through the proxy: then this is what is left
/// while the agent is away.
fn balancing(service: &ServiceObject, policy: Option<&TrafficPolicy>) -> Balancing {
    let wanted = policy
        .and_then(|it| it.spec.load_balancing.as_ref()?.algorithm?.in_kernel())
        .unwrap_or(service.spec.balancing);
    match wanted {
        BalancingSpec::RoundRobin => Balancing::RoundRobin,
        BalancingSpec::Random => Balancing::Random,
        BalancingSpec::LeastRequest => Balancing::LeastRequest,
    }
}

fn flags(workload: &WorkloadObject, enrolled: &Enrolled, is_here: bool) -> u32 {
    let mut flags = 0;
    if workload.spec.fail_mode == FailMode::Closed {
        flags |= Workload::FAIL_CLOSED;
    }
    if workload.spec.egress == Egress::Locked {
        flags |= Workload::EGRESS_LOCKED;
    }
    if workload.spec.acceleration && is_here && enrolled.is_accelerated {
        flags |= Workload::ACCELERATED;
    }
    if workload.spec.dns && is_here && enrolled.answers_names {
        flags |= Workload::DNS;
    }
    flags
}

fn first(workload: &WorkloadObject, is_family: impl Fn(&IpAddr) -> bool) -> Address {
    let canonical = workload.spec.addresses.iter().map(IpAddr::to_canonical);
    canonical
        .into_iter()
        .find(is_family)
        .map_or(Address::UNSPECIFIED, Address::from)
}

/// Fills slots by weight so that taking them in order is smooth: 3 and 1 become a, a, b, a.
fn interleave(weighted: &[(u32, u32)]) -> Vec<u32> {
    let weights = fit(weighted);
    let mut places: Vec<(u64, u64, u32)> = Vec::new();
    for ((id, _), weight) in weighted.iter().zip(weights) {
        // Turn k of an endpoint stands at (k + 1/2) / weight of the round.
        places.extend((0..weight).map(|turn| (2 * turn + 1, weight, *id)));
    }
    places.sort_by_key(|(_, _, id)| *id);
    places.sort_by(|left, right| (left.0 * right.1).cmp(&(right.0 * left.1)));
    places.into_iter().map(|(_, _, id)| id).collect()
}

/// Weights without their common divisor, and scaled down where they would fill more than [`MAX_SLOTS`]. Endpoints
/// beyond that number take no slot.
fn fit(weighted: &[(u32, u32)]) -> Vec<u64> {
    let most = u64::from(MAX_SLOTS);
    let divisor = weighted
        .iter()
        .fold(0, |gcd, (_, weight)| common(gcd, *weight));
    let weights = weighted
        .iter()
        .take(MAX_SLOTS as usize)
        .map(|(_, weight)| u64::from(weight.checked_div(divisor).unwrap_or(0)));
    let total: u64 = weights.clone().sum();
    if total <= most {
        return weights.collect();
    }
    // One slot for each, and the rest of the slots for the rest of the weights.
    let count = weights.len() as u64;
    weights
        .map(|weight| 1 + (weight - 1) * (most - count) / (total - count))
        .collect()
}

/// The greatest common divisor.
const fn common(left: u32, right: u32) -> u32 {
    let (mut left, mut right) = (left, right);
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

//! What would happen to a connection now: the verdict function of the hook, over the same maps.

use std::cell::RefCell;
use std::net::SocketAddr;

use mesh_common::address::{Address, SocketAddress};
use mesh_common::egress::EgressKey;
use mesh_common::endpoint::Endpoint;
use mesh_common::policy::{Authorization, PolicyKey};
use mesh_common::service::{ListenerKey, Mode, Role, Service, ServiceKey, SlotKey, TCP, UDP};
use mesh_common::settings::Settings;
use mesh_common::verdict::{self, Decision, Facts, Liveness, Reason, Verdict};
use mesh_common::workload::{Caller, Workload};

use super::mirror::{Enrolled, Place, desired};
use super::{TableError, Tables};
use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::report::{Explanation, Transport};
use crate::state::service as model;
use crate::traffic::authz;

#[cfg(test)]
mod tests;

/// What an explanation is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The objects, for names.
    pub snapshot: &'a Snapshot,
    /// Who is enrolled.
    pub enrolled: &'a Enrolled,
    /// The pinned maps, for the decision.
    pub tables: &'a Tables,
    /// The monotonic clock in nanoseconds, for the age of the heartbeat.
    pub now_ns: u64,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such workload.
    #[error("no workload {0}")]
    UnknownWorkload(ObjectKey),
    /// A map cannot be read.
    #[error("cannot read what the kernel decides by")]
    Tables(#[from] TableError),
}

/// Reason of a workload that the kernel does not steer.
const NOT_ENROLLED: &str = "not-enrolled";

/// Explains what would happen if `source` dialled `destination` with a new socket. Takes nothing: the next connection
/// gets the endpoint that it would have got.
pub fn explain(
    view: &View<'_>,
    source: &ObjectKey,
    destination: SocketAddr,
    transport: Transport,
) -> Result<Explanation, Error> {
    if !view.snapshot.workloads.contains_key(source) {
        return Err(Error::UnknownWorkload(source.clone()));
    }
    let settings = view.tables.settings.get(&0)?.unwrap_or_default();
    let (workload, netns) = match view.enrolled.places.get(source) {
        Some(Place::Netns(cookie)) => (view.tables.workloads.get(cookie)?, *cookie),
        Some(Place::Cgroup(id)) => (view.tables.cgroups.get(id)?, settings.host_netns),
        None => (None, 0),
    };
    let maps = Maps {
        tables: view.tables,
        settings,
        now_ns: view.now_ns,
        trouble: RefCell::default(),
    };
    let explanation = match workload {
        None => unsteered(NOT_ENROLLED),
        Some(_) if settings.has(Settings::PASS_ALL) => unsteered(Reason::PassAll.as_str()),
        Some(workload) => {
            let facts = Facts {
                workload: &workload,
                destination: destination.into(),
                bound: Address::UNSPECIFIED,
                netns,
                protocol: number(transport),
                is_answer: false,
                endpoint: 0,
                is_bound_to_device: false,
            };
            decide(&maps, view.snapshot, &facts)
        }
    };
    match maps.trouble.into_inner() {
        Some(error) => Err(Error::Tables(error)),
        None => Ok(explanation),
    }
}

const fn number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    }
}

fn unsteered(reason: &str) -> Explanation {
    Explanation {
        verdict: Verdict::Pass.as_str().to_owned(),
        reason: reason.to_owned(),
        ..Explanation::default()
    }
}

/// Decides over any tables, and names what the decision speaks of.
fn decide<T: verdict::Tables>(tables: &T, snapshot: &Snapshot, facts: &Facts<'_>) -> Explanation {
    let decision = verdict::decide(tables, facts);
    let service = tables.service(&ServiceKey::new(&facts.destination, facts.protocol));
    let key = service.and_then(|service| match snapshot.ids.subject(service.id) {
        Some(Subject::Service(key)) => Some(key),
        _ => None,
    });
    let endpoints = key.map_or_else(Vec::new, |key| endpoints(snapshot, key, facts, &decision));
    Explanation {
        verdict: decision.verdict.as_str().to_owned(),
        reason: decision.reason.as_str().to_owned(),
        service: key.map(ToString::to_string),
        mode: service.map(|service| {
            let is_direct = service.mode == Mode::Direct as u8;
            if is_direct { "direct" } else { "proxy" }.to_owned()
        }),
        policy: policies(snapshot, facts, &decision, &endpoints),
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        request: None,
    }
}

/// The policies that speak of what was dialled, and of the endpoint that was picked; where the proxy picks, of any that it
/// may pick.
fn policies(
    snapshot: &Snapshot,
    facts: &Facts<'_>,
    decision: &Decision,
    endpoints: &[SocketAddr],
) -> Vec<String> {
    let mut asked = vec![facts.destination];
    if decision.endpoint != 0 {
        asked.push(decision.destination);
    }
    if decision.verdict == Verdict::Proxy {
        asked.extend(endpoints.iter().map(|it| SocketAddress::from(*it)));
    }
    let policies = authz::policies_for(snapshot, asked, facts.protocol);
    policies.iter().map(ToString::to_string).collect()
}

/// The endpoints that may be picked: of the socket's family, unless the proxy picks. Where routes tell it which, only it
/// knows.
fn endpoints(
    snapshot: &Snapshot,
    key: &ObjectKey,
    facts: &Facts<'_>,
    decision: &Decision,
) -> Vec<SocketAddr> {
    let Some(service) = snapshot.services.get(key) else {
        return Vec::new();
    };
    let mut ports = service.spec.ports.iter();
    let Some(port) = ports.find(|port| {
        port.port == facts.destination.port && port.protocol.transport() == facts.protocol
    }) else {
        return Vec::new();
    };
    let is_proxied = decision.verdict == Verdict::Proxy;
    if is_proxied && is_routed(snapshot, service, port, facts.workload) {
        return Vec::new();
    }
    let is_v4 = facts.destination.address.is_v4();
    let all: Vec<_> = snapshot.endpoints_of(key).collect();
    let candidates = desired::candidates(snapshot, key, &all);
    candidates
        .map(|endpoint| &endpoint.spec)
        .map(|spec| SocketAddr::new(spec.address.to_canonical(), spec.port_of(port)))
        .filter(|address| decision.verdict != Verdict::Direct || address.is_ipv4() == is_v4)
        .collect()
}

/// Whether routes say where requests and connections of a caller go: those of its namespace, or else of the service's.
fn is_routed(
    snapshot: &Snapshot,
    service: &model::Service,
    port: &model::Port,
    caller: &Workload,
) -> bool {
    let caller = match snapshot.ids.subject(caller.id) {
        Some(Subject::Workload(key)) => key.namespace.as_str(),
        _ => "",
    };
    [caller, &service.metadata.namespace]
        .into_iter()
        .any(|namespace| snapshot.has_routes(service, port, namespace))
}

/// The pinned maps, read from user space.
struct Maps<'a> {
    tables: &'a Tables,
    settings: Settings,
    now_ns: u64,
    /// The first map that could not be read.
    trouble: RefCell<Option<TableError>>,
}

impl Maps<'_> {
    fn read<T>(&self, result: Result<Option<T>, TableError>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.trouble.borrow_mut().get_or_insert(error);
            None
        })
    }
}

impl verdict::Tables for Maps<'_> {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.read(self.tables.services.get(key))
    }

    fn slot(&self, key: &SlotKey) -> Option<u32> {
        self.read(self.tables.slots.get(key))
    }

    fn endpoint(&self, id: u32) -> Option<Endpoint> {
        self.read(self.tables.endpoints.get(&id))
    }

    fn identity(&self, address: &Address) -> Option<Workload> {
        self.read(self.tables.identities.get(address))
    }

    fn authorize(
        &self,
        key: &PolicyKey,
        caller: &Caller,
        source: &Address,
        port: u16,
    ) -> Authorization {
        self.read(self.tables.policy.get(key))
            .map_or_else(Authorization::default, |policy| {
                policy.authorize(caller, source, port)
            })
    }

    fn open_connections(&self, endpoint: u32) -> u64 {
        self.read(self.tables.open.get(&endpoint)).unwrap_or(0)
    }

    fn next(&self, port_id: u32) -> u32 {
        let cursor = self.read(self.tables.cursors.get(&port_id)).unwrap_or(0);
        // The hook takes the low half too.
        u32::try_from(cursor & u64::from(u32::MAX)).unwrap_or_default()
    }

    fn random(&self) -> u32 {
        rand::random()
    }

    fn may_leave(&self, workload: u32, destination: &SocketAddress) -> bool {
        let questions = EgressKey::questions(workload, destination);
        let mut answers = questions
            .iter()
            .map(|it| self.read(self.tables.egress.get(it)));
        answers.any(|answer| answer.is_some())
    }

    fn liveness(&self, netns: u64, family: u32, role: Role) -> Liveness {
        let key = ListenerKey {
            netns,
            family,
            role: role as u32,
        };
        // Sockets cannot be looked up from user space, but keys can be listed.
        let listeners = self.read(self.tables.listeners.keys().map(Some));
        if !listeners.is_some_and(|keys| keys.contains(&key)) {
            return Liveness::Absent;
        }
        let age = self.now_ns.saturating_sub(self.settings.heartbeat_ns);
        if age >= self.settings.stale_after_ns {
            return Liveness::Hung;
        }
        Liveness::Alive
    }
}

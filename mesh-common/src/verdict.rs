//! The verdict at connect: one function, compiled into the hook and into `explain`.

use crate::address::{Address, SocketAddress};
use crate::balance;
use crate::endpoint::Endpoint;
use crate::policy::{Authorization, PolicyKey};
use crate::service::{DNS_PORT, Mode, Role, Service, ServiceKey, SlotKey, UDP};
use crate::workload::{Caller, Workload};

mod reason;

pub use reason::{Reason, Verdict};

/// The maps, as the verdict sees them.
pub trait Tables {
    /// The service that is dialled.
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    /// The number of the endpoint in a slot.
    fn slot(&self, key: &SlotKey) -> Option<u32>;
    /// An endpoint.
    fn endpoint(&self, id: u32) -> Option<Endpoint>;
    /// The workload that has an address.
    fn identity(&self, address: &Address) -> Option<Workload>;
    /// What the policy of `key` says of a caller at `source` that dials `port`.
    fn authorize(
        &self,
        key: &PolicyKey,
        caller: &Caller,
        source: &Address,
        port: u16,
    ) -> Authorization;
    /// Open connections of an endpoint.
    fn open_connections(&self, endpoint: u32) -> u64;
    /// Takes the next number of a round-robin cursor.
    fn next(&self, port_id: u32) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// An endpoint of `service` that takes connections, for a socket of `family` (4 or 6); `current`, if it is the number
    /// of one that still serves what it has.
    #[inline(always)]
    fn pick(&self, service: &Service, family: u32, current: u32) -> Option<(u32, Endpoint)>
    where
        Self: Sized,
    {
        balance::pick(self, service, family, current)
    }
    /// Whether a workload whose egress is locked may dial a destination that is no service.
    fn may_leave(&self, workload: u32, destination: &SocketAddress) -> bool;
    /// Whether the agent accepts connections in a network namespace, for sockets of `family` (4 or 6), in a role.
    fn liveness(&self, netns: u64, family: u32, role: Role) -> Liveness;
}

/// Whether the agent can take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// It can.
    Alive,
    /// Its listener is gone.
    Absent,
    /// Its heartbeat is stale.
    Hung,
}

/// What is known of a connection when `connect` is called, and of a datagram when it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The caller.
    pub workload: &'a Workload,
    /// What was dialled.
    pub destination: SocketAddress,
    /// What the socket was bound to, or unspecified.
    pub bound: Address,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// IP protocol number: [`TCP`](crate::service::TCP), [`UDP`], or zero for any other.
    pub protocol: u8,
    /// Whether the destination has sent datagrams to this socket: what goes there is an answer.
    pub is_answer: bool,
    /// Number of the endpoint that this socket's datagrams to the destination go to so far, or zero.
    pub endpoint: u32,
    /// Whether the socket is bound to a device.
    pub is_bound_to_device: bool,
}

impl Facts<'_> {
    /// 4 or 6: v4-mapped destinations are IPv4.
    #[must_use]
    #[inline(always)]
    pub const fn family(&self) -> u32 {
        if self.destination.address.is_v4() {
            4
        } else {
            6
        }
    }

    /// The caller's address as policy sees it.
    #[must_use]
    #[inline(always)]
    pub const fn source(&self) -> Address {
        if !self.bound.is_unspecified() {
            self.bound
        } else if self.destination.address.is_v4() {
            self.workload.ipv4
        } else {
            self.workload.ipv6
        }
    }
}

/// The verdict and what goes with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// An audited policy would refuse.
    pub is_audited: bool,
    /// Both ends may be paired.
    pub is_accelerated: bool,
    /// Number of the service, or zero.
    pub service: u32,
    /// Number of the picked endpoint, or zero.
    pub endpoint: u32,
    /// The picked endpoint, where the verdict is direct.
    pub destination: SocketAddress,
}

/// Decides about a connection of an enrolled workload.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, facts: &Facts<'_>) -> Decision {
    let mut decision = Decision::default();
    let (verdict, reason) = verdict(tables, facts, &mut decision);
    decision.verdict = verdict;
    decision.reason = reason;
    if matches!(verdict, Verdict::Pass) && asks_for_names(facts) {
        // Else it would not have passed.
        let trouble = agent_trouble(tables, facts, Role::Resolver);
        decision.reason = trouble.unwrap_or(reason);
    }
    decision
}

/// Whether what goes there is a question for names that the agent should answer.
#[inline(always)]
const fn asks_for_names(facts: &Facts<'_>) -> bool {
    facts.destination.port == DNS_PORT && facts.workload.has(Workload::DNS) && facts.protocol != 0
}

#[inline(always)]
fn verdict<T: Tables>(tables: &T, facts: &Facts<'_>, decision: &mut Decision) -> (Verdict, Reason) {
    if facts.protocol == 0 {
        return (Verdict::Pass, Reason::Protocol);
    }
    // Before the rule for loopback: a resolver may run there.
    if asks_for_names(facts) && agent_trouble(tables, facts, Role::Resolver).is_none() {
        return if is_denied(tables, facts, &facts.destination, decision) {
            (Verdict::Deny, Reason::Policy)
        } else {
            (Verdict::Proxy, Reason::Dns)
        };
    }
    let dialled = &facts.destination;
    if dialled.address.is_loopback() || dialled.address.is_unspecified() {
        return (Verdict::Pass, Reason::Loopback);
    }
    if !facts.is_answer && is_denied(tables, facts, dialled, decision) {
        return (Verdict::Deny, Reason::Policy);
    }
    let key = ServiceKey::new(dialled, facts.protocol);
    let Some(service) = tables.service(&key) else {
        return beyond_the_mesh(tables, facts);
    };
    decision.service = service.id;
    let family = facts.family();
    let slots = if family == 4 {
        service.slots_v4
    } else {
        service.slots_v6
    };
    let has_other_family = service.slots_v4 + service.slots_v6 > slots;
    // The proxy takes no datagrams.
    let is_direct = service.mode == Mode::Direct as u8 && (slots > 0 || !has_other_family);
    if is_direct || facts.protocol == UDP {
        return direct(tables, facts, &service, Reason::Service, decision);
    }
    match agent_trouble(tables, facts, Role::Outbound) {
        None => {
            decision.is_accelerated = facts.workload.has(Workload::ACCELERATED);
            (Verdict::Proxy, Reason::Service)
        }
        Some(trouble) if facts.workload.has(Workload::FAIL_CLOSED) => (Verdict::Deny, trouble),
        Some(trouble) => direct(tables, facts, &service, trouble, decision),
    }
}

/// A destination that is no service.
#[inline(always)]
fn beyond_the_mesh<T: Tables>(tables: &T, facts: &Facts<'_>) -> (Verdict, Reason) {
    if facts.workload.has(Workload::EGRESS_LOCKED)
        && !facts.is_answer
        && !tables.may_leave(facts.workload.id, &facts.destination)
    {
        return (Verdict::Deny, Reason::EgressLocked);
    }
    if facts.protocol == UDP {
        return (Verdict::Pass, Reason::NoService);
    }
    // Whom the agent does not answer, the resolver does, over TCP as over UDP.
    if facts.workload.has(Workload::FAIL_CLOSED) && !asks_for_names(facts) {
        match tables.liveness(facts.netns, facts.family(), Role::Outbound) {
            Liveness::Alive => {}
            Liveness::Absent => return (Verdict::Deny, Reason::AgentAbsent),
            Liveness::Hung => return (Verdict::Deny, Reason::AgentHung),
        }
    }
    (Verdict::Pass, Reason::NoService)
}

/// Why the agent cannot take this connection, if it cannot.
#[inline(always)]
fn agent_trouble<T: Tables>(tables: &T, facts: &Facts<'_>, role: Role) -> Option<Reason> {
    if facts.is_bound_to_device {
        return Some(Reason::BoundDevice);
    }
    match tables.liveness(facts.netns, facts.family(), role) {
        Liveness::Alive => None,
        Liveness::Absent => Some(Reason::AgentAbsent),
        Liveness::Hung => Some(Reason::AgentHung),
    }
}

/// Balances in the kernel.
#[inline(always)]
fn direct<T: Tables>(
    tables: &T,
    facts: &Facts<'_>,
    service: &Service,
    reason: Reason,
    decision: &mut Decision,
) -> (Verdict, Reason) {
    let Some((id, endpoint)) = tables.pick(service, facts.family(), facts.endpoint) else {
        return (Verdict::Deny, Reason::NoEndpoint);
    };
    decision.endpoint = id;
    decision.destination = endpoint.socket_address();
    let destination = decision.destination;
    if is_denied(tables, facts, &destination, decision) {
        return (Verdict::Deny, Reason::Policy);
    }
    decision.is_accelerated = facts.workload.has(Workload::ACCELERATED)
        && matches!(tables.identity(&endpoint.address), Some(callee) if callee.has(Workload::ACCELERATED));
    (Verdict::Direct, reason)
}

/// Whether policy refuses `destination`: as a service port or endpoint, and as a workload. Not inlined: the stack of a
/// kernel program has 512 bytes.
#[inline(never)]
fn is_denied<T: Tables>(
    tables: &T,
    facts: &Facts<'_>,
    destination: &SocketAddress,
    decision: &mut Decision,
) -> bool {
    let caller = &facts.workload.caller;
    let source = facts.source();
    let port = destination.port;
    // One key for both questions: the stack is short.
    let mut key = PolicyKey::port(destination, facts.protocol);
    let exact = tables.authorize(&key, caller, &source, port);
    (key.port, key.protocol) = (0, 0);
    let whole = tables.authorize(&key, caller, &source, port);
    decision.is_audited |= exact.is_audited || whole.is_audited;
    exact.is_denied || whole.is_denied
}

#[cfg(test)]
#[cfg(feature = "user")]
mod tests;

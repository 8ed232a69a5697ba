//! The verdict at connect: one function, compiled into the hook and into `explain`.

use crate::address::{Address, SocketAddress};
use crate::balance;
use crate::endpoint::Endpoint;
use crate::policy::{Authorization, PolicyKey};
use crate::service::{Mode, Service, ServiceKey, SlotKey, UDP};
use crate::workload::{Caller, Workload};

/// What happens to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Goes where it was dialled.
    #[default]
    Pass = 1,
    /// Goes to an endpoint that the kernel picked.
    Direct = 2,
    /// Goes to the agent's listener.
    Proxy = 3,
    /// Is refused with ECONNREFUSED.
    Deny = 4,
}

/// Why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Nothing to say.
    #[default]
    None = 0,
    /// The destination is a service.
    Service = 1,
    /// The destination is no service.
    NoService = 2,
    /// The destination is this host.
    Loopback = 3,
    /// The socket speaks neither TCP nor UDP.
    Protocol = 4,
    /// An authorization policy refuses.
    Policy = 5,
    /// No endpoint takes connections.
    NoEndpoint = 6,
    /// The agent's listener is gone.
    AgentAbsent = 7,
    /// The agent's heartbeat is stale.
    AgentHung = 8,
    /// Only services may be dialled.
    EgressLocked = 9,
    /// The socket is bound to a device, so that it cannot reach the agent's listener.
    BoundDevice = 10,
    /// The mesh is being taken down.
    PassAll = 11,
    /// A socket that the kernel programs never saw sent a SYN.
    NoVerdict = 12,
    /// The connection was there before the enrolment.
    Older = 13,
    /// The process runs outside the hooked cgroup.
    OutsideCgroup = 14,
    /// The peer's socket is not paired.
    NoPeer = 15,
    /// The receive buffer of the peer is full.
    PeerFull = 16,
    /// Acceleration is switched off.
    Disabled = 17,
    /// The peer's socket is gone.
    PeerGone = 18,
    /// The kernel refused.
    Failed = 19,
}

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
    /// Whether the agent accepts connections in a network namespace, for sockets of `family` (4 or 6).
    fn liveness(&self, netns: u64, family: u32) -> Liveness;
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
    decision
}

#[inline(always)]
fn verdict<T: Tables>(tables: &T, facts: &Facts<'_>, decision: &mut Decision) -> (Verdict, Reason) {
    if facts.protocol == 0 {
        return (Verdict::Pass, Reason::Protocol);
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
    match agent_trouble(tables, facts) {
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
    if facts.protocol == UDP {
        return (Verdict::Pass, Reason::NoService);
    }
    if facts.workload.has(Workload::EGRESS_LOCKED) {
        return (Verdict::Deny, Reason::EgressLocked);
    }
    if facts.workload.has(Workload::FAIL_CLOSED) {
        match tables.liveness(facts.netns, facts.family()) {
            Liveness::Alive => {}
            Liveness::Absent => return (Verdict::Deny, Reason::AgentAbsent),
            Liveness::Hung => return (Verdict::Deny, Reason::AgentHung),
        }
    }
    (Verdict::Pass, Reason::NoService)
}

/// Why the agent cannot take this connection, if it cannot.
#[inline(always)]
fn agent_trouble<T: Tables>(tables: &T, facts: &Facts<'_>) -> Option<Reason> {
    if facts.is_bound_to_device {
        return Some(Reason::BoundDevice);
    }
    match tables.liveness(facts.netns, facts.family()) {
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

impl Verdict {
    /// The word in logs, metrics and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Direct => "direct",
            Self::Proxy => "proxy",
            Self::Deny => "deny",
        }
    }

    /// The verdict with a number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Pass),
            2 => Some(Self::Direct),
            3 => Some(Self::Proxy),
            4 => Some(Self::Deny),
            _ => None,
        }
    }
}

impl Reason {
    /// Every reason, by number.
    pub const ALL: [Self; 20] = [
        Self::None,
        Self::Service,
        Self::NoService,
        Self::Loopback,
        Self::Protocol,
        Self::Policy,
        Self::NoEndpoint,
        Self::AgentAbsent,
        Self::AgentHung,
        Self::EgressLocked,
        Self::BoundDevice,
        Self::PassAll,
        Self::NoVerdict,
        Self::Older,
        Self::OutsideCgroup,
        Self::NoPeer,
        Self::PeerFull,
        Self::Disabled,
        Self::PeerGone,
        Self::Failed,
    ];

    /// The word in logs, metrics and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Service => "service",
            Self::NoService => "no-service",
            Self::Loopback => "loopback",
            Self::Protocol => "protocol",
            Self::Policy => "policy",
            Self::NoEndpoint => "no-endpoint",
            Self::AgentAbsent => "agent-absent",
            Self::AgentHung => "agent-hung",
            Self::EgressLocked => "egress-locked",
            Self::BoundDevice => "bound-device",
            Self::PassAll => "pass-all",
            Self::NoVerdict => "no-verdict",
            Self::Older => "older",
            Self::OutsideCgroup => "outside-cgroup",
            Self::NoPeer => "no-peer",
            Self::PeerFull => "peer-full",
            Self::Disabled => "disabled",
            Self::PeerGone => "peer-gone",
            Self::Failed => "failed",
        }
    }

    /// The reason with a number, if there is one.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
#[cfg(feature = "user")]
mod tests;

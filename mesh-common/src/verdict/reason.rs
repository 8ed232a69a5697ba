//! What can happen to a connection or a datagram, and why.

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
    /// It is a question for names, which the agent answers.
    Dns = 20,
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
    pub const ALL: [Self; 21] = [
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
        Self::Dns,
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
            Self::Dns => "dns",
        }
    }

    /// The reason with a number, if there is one.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

//! What the kernel remembers about a connection: `CONN` (socket storage) and `PENDING`.

use crate::address::SocketAddress;
use crate::workload::Caller;

/// The verdict about one socket's connection, and who asked. Written at connect for every verdict; copied to the
/// accepted socket where both ends are on this node. Of a datagram socket that is not connected: the verdict about
/// where it sent last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Conn {
    /// What the workload dialled.
    pub original: SocketAddress,
    /// A [`Verdict`](crate::verdict::Verdict); zero where the agent dials for itself.
    pub verdict: u8,
    /// A [`Reason`](crate::verdict::Reason).
    pub reason: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// The flags below.
    pub flags: u8,
    /// Number of the caller's workload.
    pub workload: u32,
    /// Number of the service, or zero.
    pub service: u32,
    /// Number of the endpoint that was chosen, or zero.
    pub endpoint: u32,
    /// The caller's identity.
    pub caller: Caller,
    /// Process (thread group) that called connect.
    pub pid: u32,
    /// Cookie of the caller's network namespace.
    pub netns: u64,
    /// Cookie of the caller's socket.
    pub cookie: u64,
    /// Cgroup of the process that called connect.
    pub cgroup: u64,
    /// When connect was called, on the monotonic clock, in nanoseconds. In `PENDING`: when the SYN left, which may be
    /// long after connect, with the first bytes; what the agent says of its own sockets may have no time.
    pub started_ns: u64,
}

const _: () = assert!(size_of::<Conn>() == 20 + 4 + 4 * 3 + 8 + 4 + 8 * 4);

impl Conn {
    /// The agent's own socket: passes every hook.
    pub const OWN: u8 = 1;
    /// The agent has authorized this connection for the callee.
    pub const AUTHORIZED: u8 = 1 << 1;
    /// Both ends may be paired for redirection.
    pub const ACCELERATED: u8 = 1 << 2;
    /// Counted as open for its endpoint; cleared when the count is taken back.
    pub const COUNTED: u8 = 1 << 3;
    /// Datagrams of this socket were sent elsewhere than where it addressed them: answers are looked up in `REPLIES`.
    pub const TRANSLATED: u8 = 1 << 4;
    /// Somebody whom policy protects sent datagrams to this socket: `REPLIES` knows who may be answered.
    pub const CALLED: u8 = 1 << 5;
    /// For how long the other end may be accepted after the SYN left, in nanoseconds: Linux repeats a SYN for 127 s
    /// (`net.ipv4.tcp_syn_retries`, 6). What is older in `PENDING` is of a connection that is gone, and who has its
    /// name now may be somebody else.
    pub const PENDING_NS: u64 = 130 * 1_000_000_000;

    /// Whether `flag` is set.
    #[must_use]
    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether its socket is one that the agent dials with. What is accepted from the agent is the workload's, which may
    /// dial with it again.
    #[must_use]
    #[inline(always)]
    pub const fn is_own(&self) -> bool {
        self.has(Self::OWN) && self.direction != Direction::Accepted as u8
    }

    /// What the socket knows that accepts this connection.
    #[must_use]
    #[inline(always)]
    pub const fn accepted(mut self) -> Self {
        self.direction = Direction::Accepted as u8;
        self.flags &= !(Self::OWN | Self::AUTHORIZED | Self::COUNTED);
        self
    }

    /// Whether its other end may still be accepted, at `now_ns` on the monotonic clock.
    #[must_use]
    #[inline(always)]
    pub const fn is_pending(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.started_ns) < Self::PENDING_NS
    }
}

/// Which end of its connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// It called connect.
    Dialled = 1,
    /// It was accepted; its [`Conn`] is a copy.
    Accepted = 2,
}

/// A connection as its socket names it: key of `PENDING`, `SOCKETS` and `PEERS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Tuple {
    /// This end.
    pub local: SocketAddress,
    /// The other end.
    pub remote: SocketAddress,
    /// Cookie of the network namespace if an address is loopback, else zero, so that caller and callee in
    /// different namespaces meet.
    pub netns: u64,
}

const _: () = assert!(size_of::<Tuple>() == 20 + 20 + 8);

impl Tuple {
    /// The tuple of a socket in the namespace with cookie `netns`.
    #[must_use]
    #[inline(always)]
    pub const fn new(local: SocketAddress, remote: SocketAddress, netns: u64) -> Self {
        let is_local = local.address.is_loopback() || remote.address.is_loopback();
        Self {
            local,
            remote,
            netns: if is_local { netns } else { 0 },
        }
    }

    /// The same connection as the other end names it.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            netns: self.netns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Conn, Direction};

    #[test]
    fn what_is_accepted_from_the_agent_is_not_the_agents() {
        let dialled = Conn {
            direction: Direction::Dialled as u8,
            flags: Conn::OWN | Conn::AUTHORIZED | Conn::ACCELERATED | Conn::COUNTED,
            service: 7,
            ..Conn::default()
        };
        assert!(dialled.is_own());
        let accepted = dialled.accepted();
        assert_eq!(accepted.flags, Conn::ACCELERATED);
        assert_eq!(accepted.service, 7);
        // As an agent that kept the flags has left it behind.
        let before = Conn {
            flags: dialled.flags,
            ..accepted
        };
        assert!(!accepted.is_own() && !before.is_own());
    }

    #[test]
    fn a_connection_is_pending_while_its_syn_may_be_repeated() {
        let second = 1_000_000_000;
        let conn = Conn {
            started_ns: 1_000 * second,
            ..Conn::default()
        };
        assert!(conn.is_pending(1_000 * second));
        assert!(conn.is_pending(1_127 * second));
        assert!(!conn.is_pending(1_130 * second));
        // The clock of another processor may be a moment behind.
        assert!(conn.is_pending(999 * second));
    }
}

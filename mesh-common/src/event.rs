//! Records of the ring buffer `EVENTS`: what is rare, and what is final.

use crate::address::SocketAddress;

/// One record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// A [`Kind`].
    pub kind: u8,
    /// A [`Verdict`](crate::verdict::Verdict), or zero.
    pub verdict: u8,
    /// A [`Reason`](crate::verdict::Reason), or zero.
    pub reason: u8,
    /// Flags of the socket's [`Conn`](crate::conn::Conn).
    pub flags: u8,
    /// Number of the caller's workload.
    pub workload: u32,
    /// Number of the service, or zero.
    pub service: u32,
    /// Number of the endpoint, or zero.
    pub endpoint: u32,
    /// The caller's address; at connect only what the socket was bound to.
    pub source: SocketAddress,
    /// What was dialled.
    pub original: SocketAddress,
    /// Where the connection went.
    pub destination: SocketAddress,
    /// Process that called connect.
    pub pid: u32,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Monotonic clock, in nanoseconds.
    pub time_ns: u64,
    /// When connect was called, on the same clock.
    pub started_ns: u64,
    /// Bytes the caller sent and the peer acknowledged, redirected bytes included.
    pub bytes_sent: u64,
    /// Bytes the caller received, redirected bytes included.
    pub bytes_received: u64,
    /// Smoothed round trip, in microseconds.
    pub rtt_micros: u32,
    /// Segments sent again.
    pub retransmits: u32,
}

const _: () = assert!(size_of::<Event>() == 4 + 12 + 60 + 4 + 8 * 5 + 8);

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A connection was refused at connect.
    Denied = 1,
    /// An audited policy would have refused a connection.
    AuditDenied = 2,
    /// A connection to an endpoint was refused at the destination (`sk_lookup`).
    DeniedInbound = 3,
    /// A connection left without a verdict.
    Bypassed = 4,
    /// A dialled socket was closed.
    Closed = 5,
}

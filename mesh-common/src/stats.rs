//! Counters of the kernel: keys of `STATS`, whose values are one `u64` per CPU.

/// Which counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct StatKey {
    /// Number of the workload (of the service for the acceleration counters).
    pub subject: u32,
    /// A [`Counter`].
    pub counter: u16,
    /// A [`Reason`](crate::verdict::Reason), or zero.
    pub reason: u16,
}

impl StatKey {
    /// The subject of what is left of objects that are gone; only the agent writes it.
    pub const GONE: u32 = u32::MAX;

    /// What found no room for a counter of its own. The agent makes it before any program counts.
    pub const LOST: Self = Self {
        subject: 0,
        counter: Counter::StatLost as u16,
        reason: 0,
    };
}

const _: () = assert!(size_of::<StatKey>() == 4 + 2 + 2);

/// What is counted. The first four have the numbers of [`Verdict`](crate::verdict::Verdict).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Counter {
    /// Connections that passed.
    Pass = 1,
    /// Connections balanced in the kernel.
    Direct = 2,
    /// Connections sent to the proxy.
    Proxy = 3,
    /// Connections refused at connect.
    Deny = 4,
    /// Connections that left without a verdict.
    Bypass = 5,
    /// Connections that an audited policy would have refused.
    AuditDeny = 6,
    /// Connections refused at the destination; the subject is the callee.
    InboundDeny = 7,
    /// Bytes redirected; the subject is the service.
    AcceleratedBytes = 8,
    /// Messages redirected; the subject is the service.
    AcceleratedMessages = 9,
    /// Directions that fell back to TCP, by reason; the subject is the service.
    AccelerationFallback = 10,
    /// Records that found the ring buffer full.
    EventLost = 11,
    /// Writes that found a map full, by reason.
    MapFull = 12,
    /// Counts that found no room for a new counter; one key, [`StatKey::LOST`].
    StatLost = 13,
}

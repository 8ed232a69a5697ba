//! The one value of `SETTINGS`: switches that every program reads.
//!
//! `sk_msg` programs live on in old sockets, so this layout changes only with [`SCHEMA`](crate::SCHEMA).

/// Switches and liveness of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// [`SCHEMA`](crate::SCHEMA) of the agent that wrote this.
    pub schema: u32,
    /// The flags below.
    pub flags: u32,
    /// When every worker of the data plane was last seen alive: monotonic clock, nanoseconds.
    pub heartbeat_ns: u64,
    /// Age of the heartbeat, in nanoseconds, from which on the agent counts as hung.
    pub stale_after_ns: u64,
    /// Cookie of the agent's own network namespace, in which workloads are told apart by cgroup.
    pub host_netns: u64,
}

const _: () = assert!(size_of::<Settings>() == 4 + 4 + 8 * 3);

impl Settings {
    /// Every connection passes, unseen: set while the mesh is taken down.
    pub const PASS_ALL: u32 = 1;
    /// The kill switch of acceleration: every direction falls back to TCP at its next message.
    pub const ACCELERATION_OFF: u32 = 1 << 1;

    /// Whether `flag` is set.
    #[must_use]
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

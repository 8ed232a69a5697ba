//! Who opens a connection: the values of `WORKLOADS`, `CGROUPS` and `IDENTITIES`.

use crate::address::Address;

/// Levels of the cgroup tree, of which its root is one, in which a workload is looked for: the kernel has no loop without a
/// bound. What lies deeper cannot be enrolled.
pub const CGROUP_LEVELS: u8 = 16;

/// What policy knows about a caller. Zero in a field is "unknown", and matches only rules that ask for nothing there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Caller {
    /// Number of the namespace's name.
    pub namespace: u32,
    /// Number of the service account's name.
    pub service_account: u32,
}

const _: () = assert!(size_of::<Caller>() == 4 + 4);

/// A workload of this node, or in `IDENTITIES` who has an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Workload {
    /// Number of the workload; the subject of its counters.
    pub id: u32,
    /// The flags below.
    pub flags: u32,
    /// Its identity.
    pub caller: Caller,
    /// Its first IPv4 address, or unspecified: the source that policy sees at connect, before the kernel has chosen one.
    pub ipv4: Address,
    /// Its first IPv6 address, or unspecified.
    pub ipv6: Address,
}

const _: () = assert!(size_of::<Workload>() == 4 + 4 + 8 + 16 + 16);

impl Workload {
    /// Connections that need the agent are refused while it is absent or hung.
    pub const FAIL_CLOSED: u32 = 1;
    /// Its sockets may be paired for redirection by `sk_msg`.
    pub const ACCELERATED: u32 = 1 << 1;
    /// Only services of the mesh may be dialled.
    pub const EGRESS_LOCKED: u32 = 1 << 2;
    /// Its questions for names go to the agent.
    pub const DNS: u32 = 1 << 3;

    /// Whether `flag` is set.
    #[must_use]
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

//! What this kernel can do, and who else hooks it.

use std::fmt;
use std::os::fd::AsFd as _;
use std::str::FromStr;

use aya::programs::loaded_programs;

use super::attach::{CGROUP_HOOKS, Cgroup};
use super::sys::{self, AttachType};

/// Version of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

/// Oldest kernel whose helpers the programs need (`bpf_loop`).
pub(super) const OLDEST: Version = Version::new(5, 17, 0);

/// Lines of kernels that got the fixes that acceleration needs, and from which release on: that no subflow of MPTCP is
/// paired (else the kernel panics), that nothing is used after it is freed in `sk_msg` (CVE-2026-68284, CVE-2026-74589) and
/// `sock_ops` (CVE-2026-53078, CVE-2026-74268), and that kernel TLS is refused on a paired socket (CVE-2026-93824).
///
/// 6.18 has the last of them from 53 on, and CVE-2026-74589 from 45 on, which `apply_bytes` is needed for: we never set it.
/// 44 is what everything was measured on; the documentation says what kernel TLS may not do there. Lines that are not
/// listed ended without the fixes.
const FIXED: [Version; 3] = [
    Version::new(6, 1, 189),
    Version::new(6, 12, 111),
    Version::new(6, 18, 44),
];

/// The first line that was born with all of them (the records of those CVEs say so of 7.2).
const BORN_FIXED: Version = Version::new(7, 2, 0);

impl Version {
    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Those on which sockets may be paired, for people.
    pub(super) fn all_that_accelerate() -> String {
        let lines = FIXED.map(|it| format!("{it} or later of {}.{}", it.major, it.minor));
        let Self { major, minor, .. } = BORN_FIXED;
        format!("{}, or {major}.{minor} and newer", lines.join(", "))
    }

    /// That of the running kernel.
    pub(super) fn of_kernel() -> Option<Self> {
        std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .ok()?
            .parse()
            .ok()
    }

    /// Whether sockets may be paired on this kernel without known corruption or panics.
    pub(super) fn can_accelerate(self) -> bool {
        let line = |version: Self| (version.major, version.minor);
        let is_fixed = |fixed: &Self| line(*fixed) == line(self) && *fixed <= self;
        BORN_FIXED <= self || FIXED.iter().any(is_fixed)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(release: &str) -> Result<Self, Self::Err> {
        let mut numbers = release.trim().split(['.', '-', '+', '_']).map(str::parse);
        let mut number = || numbers.next().and_then(Result::ok);
        let major = number().ok_or(())?;
        let minor = number().ok_or(())?;
        Ok(Self::new(major, minor, number().unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Number of the helper `bpf_get_netns_cookie`.
const GET_NETNS_COOKIE: i32 = 122;

/// Whether `cgroup_skb` programs may ask for the network namespace: a program that does is offered to the kernel.
pub(super) fn has_skb_netns() -> bool {
    let cgroup_skb = aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_CGROUP_SKB;
    sys::is_helper_allowed(cgroup_skb, GET_NETNS_COOKIE)
}

/// A program of somebody else on one of our hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// The hook.
    pub(super) hook: &'static str,
    /// Whether it is one that acceleration cannot share.
    pub(super) forbids_acceleration: bool,
    /// Name and number of the program.
    pub(super) program: String,
}

/// Programs that also run for processes of `cgroup`, attached there or above; `ours` are numbers of programs.
pub(super) fn foreign_programs(cgroup: &Cgroup, ours: &[u32]) -> Vec<Foreign> {
    let mut foreign = Vec::new();
    for (hook, attach_type) in CGROUP_HOOKS {
        // An old kernel that cannot answer for a hook cannot have a program there either.
        let attached = sys::attached(cgroup.directory.as_fd(), attach_type).unwrap_or_default();
        for number in attached.into_iter().filter(|number| !ours.contains(number)) {
            foreign.push(Foreign {
                hook,
                forbids_acceleration: attach_type == AttachType::BPF_CGROUP_SOCK_OPS,
                program: format!("{} ({number})", name_of(number)),
            });
        }
    }
    foreign
}

fn name_of(number: u32) -> String {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == number)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Version;

    fn version(release: &str) -> Version {
        release.parse().expect("a release")
    }

    #[test]
    fn kernels_that_accelerate_are_told() {
        assert_eq!(
            Version::all_that_accelerate(),
            "6.1.189 or later of 6.1, 6.12.111 or later of 6.12, 6.18.44 or later of 6.18, or 7.2 and newer"
        );
    }

    #[test]
    fn a_release_is_read_with_and_without_a_suffix() {
        assert_eq!(version("6.12.111-amd64\n"), Version::new(6, 12, 111));
        assert_eq!(version("6.1"), Version::new(6, 1, 0));
        assert!("linux".parse::<Version>().is_err());
    }

    #[test]
    fn acceleration_asks_for_the_fixes_of_each_line() {
        for (release, expected) in [
            ("5.15.200", false),
            ("6.1.188", false),
            ("6.1.189", true),
            ("6.6.150", false),
            ("6.12.110", false),
            ("6.12.111", true),
            ("6.13.12", false),
            ("6.14.0", false),
            ("6.17.0", false),
            ("6.18.0", false),
            ("6.18.43", false),
            ("6.18.44-fc", true),
            ("6.18.53", true),
            ("6.19.14", false),
            ("7.0.10", false),
            ("7.1.9", false),
            ("7.2.0", true),
            ("7.3.1", true),
        ] {
            assert_eq!(version(release).can_accelerate(), expected, "{release}");
        }
    }
}

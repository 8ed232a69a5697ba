//! `mesh-agent check`: can the data path work here? One line each.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::attach::Cgroup;
use super::load::OBJECT;
use super::offsets::Offsets;
use super::pins::{Pins, is_bpffs};
use super::probe::{self, OLDEST, Version};
use super::{Config, link, sys};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What: one word or two.
    pub name: &'static str,
    /// Whether it is as it should be. A warning is `ok` with a hint.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty where nothing is to be done.
    pub hint: String,
    /// Exit code of the command if this is the first that is not `ok`.
    pub exit_code: u8,
}

impl Check {
    fn new(name: &'static str, exit_code: u8, ok: bool, detail: String, hint: &str) -> Self {
        Self {
            name,
            ok,
            detail,
            hint: hint.to_owned(),
            exit_code,
        }
    }
}

/// Looks at everything that the data path needs. Changes nothing.
#[must_use]
pub fn run(config: &Config) -> Vec<Check> {
    vec![
        object(),
        kernel(),
        btf(),
        cgroup(&config.cgroup),
        bpffs(&config.pin_dir),
        capabilities(),
        foreign(config),
        acceleration(config),
    ]
}

fn object() -> Check {
    let ok = !OBJECT.is_empty();
    let detail = format!("{} bytes", OBJECT.len());
    let hint = if ok {
        ""
    } else {
        "build the agent with `cargo xtask build`"
    };
    Check::new("kernel programs", 10, ok, detail, hint)
}

fn kernel() -> Check {
    let version = Version::of_kernel();
    let ok = version.is_some_and(|version| version >= OLDEST);
    let detail = version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
    let hint = if ok {
        ""
    } else {
        "Linux 5.17 or newer is needed"
    };
    Check::new("kernel", 11, ok, detail, hint)
}

fn btf() -> Check {
    let has_btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let (detail, hint) = match (has_btf, Offsets::of_kernel()) {
        (true, Some(_)) => ("present", ""),
        (true, None) => ("struct sock has other fields", "acceleration stays off"),
        _ => (
            "absent",
            "use a kernel with CONFIG_DEBUG_INFO_BTF; sockets cannot be remembered without it",
        ),
    };
    Check::new("BTF", 12, has_btf, detail.to_owned(), hint)
}

fn cgroup(path: &Path) -> Check {
    let ok = statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let hint = if ok {
        ""
    } else {
        "name a directory of a cgroup2 mount: --cgroup; `grep cgroup2 /proc/self/mountinfo` shows them"
    };
    Check::new("cgroup2", 13, ok, path.display().to_string(), hint)
}

fn bpffs(pin_dir: &Path) -> Check {
    // The agent mounts it where it is always mounted.
    let ok = is_bpffs(pin_dir) || pin_dir.starts_with("/sys/fs/bpf");
    let hint = if ok {
        ""
    } else {
        "choose a directory below /sys/fs/bpf, or `mount -t bpf bpf DIR`"
    };
    Check::new("bpffs", 14, ok, pin_dir.display().to_string(), hint)
}

/// Capabilities that are needed, with their bits.
const CAPABILITIES: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

fn capabilities() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    let ok = missing.is_empty();
    let (detail, hint) = if ok {
        ("all".to_owned(), "")
    } else {
        (format!("missing: {}", missing.join(", ")), "run as root")
    };
    Check::new("capabilities", 15, ok, detail, hint)
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .into_iter()
        .filter(|(_, bit)| held >> bit & 1 == 0)
        .map(|(name, _)| name)
        .collect()
}

fn foreign(config: &Config) -> Check {
    let foreign = match Cgroup::open(&config.cgroup) {
        Ok(cgroup) => probe::foreign_programs(&cgroup, &pinned_programs(config)),
        Err(_) => Vec::new(),
    };
    let names: Vec<String> = foreign
        .iter()
        .map(|foreign| format!("{} beside {}", foreign.program, foreign.hook))
        .collect();
    let (detail, hint) = if names.is_empty() {
        ("none".to_owned(), "")
    } else {
        let hint = "they run besides ours; one that changes destinations is seen by us, or hides from us, by its order";
        (names.join(", "), hint)
    };
    Check::new("other owners", 16, true, detail, hint)
}

/// Numbers of the programs of an agent that runs or ran with this pin directory.
fn pinned_programs(config: &Config) -> Vec<u32> {
    let links = Pins::below(&config.pin_dir).links;
    let names = Pins::names(&links).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| link::open(&links.join(name)).ok())
        .filter_map(|link| sys::link_info(link.as_fd()).ok())
        .map(|info| info.program)
        .collect()
}

fn acceleration(config: &Config) -> Check {
    let (detail, hint) = match Version::of_kernel() {
        _ if !config.acceleration => ("off by configuration", String::new()),
        version => acceleration_on(version),
    };
    Check::new("acceleration", 17, true, detail.to_owned(), &hint)
}

fn acceleration_on(version: Option<Version>) -> (&'static str, String) {
    if version.is_some_and(Version::can_accelerate) {
        return ("possible; tested when the agent starts", String::new());
    }
    let wanted = Version::all_that_accelerate();
    let hint = format!("it wants Linux {wanted}; everything else works");
    ("off: this kernel lacks fixes of sockmap", hint)
}

#[cfg(test)]
mod tests {
    use super::{acceleration_on, missing_capabilities};

    #[test]
    fn kernel_of_a_line_with_fixes_is_told_from_which_release_on() {
        let (_, hint) = acceleration_on("6.18.20".parse().ok());
        assert!(hint.contains("6.18.44"), "{hint}");
        let (_, hint) = acceleration_on("6.18.44".parse().ok());
        assert_eq!(hint, "");
    }

    #[test]
    fn missing_capabilities_are_named() {
        let all = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert_eq!(missing_capabilities(all), Vec::<&str>::new());
        let none = "CapEff:\t0000000000000000\n";
        assert_eq!(missing_capabilities(none).len(), 4);
        assert_eq!(
            missing_capabilities("CapEff:\t0000008000001000\n"),
            ["CAP_SYS_ADMIN", "CAP_PERFMON"]
        );
    }
}

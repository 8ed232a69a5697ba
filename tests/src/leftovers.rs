//! Removes what runs that were killed left behind: namespaces, cgroups with their processes, pins.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use crate::cgroup;

/// Begins the name of every namespace, cgroup and pin directory of the tests; the process number follows.
pub(crate) const PREFIX: &str = "mesh-test-";

/// Once per process.
pub(crate) fn sweep_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(mount) = cgroup::mount() {
            for name in dead(&mount) {
                cgroup::remove(&mount.join(name));
            }
        }
        for name in dead(Path::new("/run/netns")) {
            drop(Command::new("ip").args(["netns", "del", &name]).output());
        }
        for name in dead(Path::new("/sys/fs/bpf")) {
            drop(fs::remove_dir_all(Path::new("/sys/fs/bpf").join(name)));
        }
    });
}

/// Entries of a folder that name a process which is no more.
fn dead(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|pid| !Path::new("/proc").join(pid).exists()))
        .collect()
}

/// The process number in a name of ours.
fn owner(name: &str) -> Option<&str> {
    let pid = name.strip_prefix(PREFIX)?.split('-').next()?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn the_owner_is_the_number_after_the_prefix() {
        assert_eq!(owner("mesh-test-17-3-client"), Some("17"));
        assert_eq!(owner("mesh-test-17"), Some("17"));
        assert_eq!(owner("mesh-test-x"), None);
        assert_eq!(owner("other-17"), None);
    }
}

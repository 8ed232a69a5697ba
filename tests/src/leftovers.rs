//! Removes what runs that were killed left behind: namespaces, cgroups with their processes, pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use crate::cgroup;

/// Begins the name of every namespace, cgroup and pin directory of the tests; the process number follows.
pub(crate) const PREFIX: &str = "mesh-test-";

/// Once per process: what processes left that are no more.
pub(crate) fn sweep_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| remove(|pid| !Path::new("/proc").join(pid).exists()));
}

/// Everything that this process has made.
pub(crate) fn remove_own() {
    let own = std::process::id().to_string();
    remove(|pid| pid == own);
}

fn remove(is_unwanted: impl Fn(&str) -> bool) {
    let unwanted = |folder: &Path| -> Vec<PathBuf> {
        let names = names_in(folder).into_iter();
        names
            .filter(|name| owner(name).is_some_and(&is_unwanted))
            .map(|name| folder.join(name))
            .collect()
    };
    // Processes first: they use the rest.
    for path in cgroup::mount()
        .map(|mount| unwanted(&mount))
        .unwrap_or_default()
    {
        cgroup::remove(&path);
    }
    for path in unwanted(Path::new("/run/netns")) {
        let name = path.file_name().unwrap_or_default();
        drop(Command::new("ip").args(["netns", "del"]).arg(name).output());
    }
    for folder in [Path::new("/sys/fs/bpf"), &std::env::temp_dir()] {
        for path in unwanted(folder) {
            drop(fs::remove_dir_all(path));
        }
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().into_string());
    names.flatten().collect()
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

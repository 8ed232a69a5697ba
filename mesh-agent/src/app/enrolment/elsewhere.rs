//! Processes of a workload's cgroup that are in another network namespace than the agent: the hooks know callers by cgroup
//! only in the agent's own.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::state::object::ObjectKey;

use super::place::Found;

/// Most processes of one workload that are looked at, every second.
const MAX_PROCESSES: usize = 256;
/// Most cgroups of one workload that are looked at.
const MAX_CGROUPS: usize = 256;

/// The namespaces in which workloads are known, by their inodes: the agent's own, and those that are enrolled themselves.
pub(super) fn captured(host: u64, found: &BTreeMap<ObjectKey, Found>) -> HashSet<u64> {
    let enrolled = found.values().filter_map(|it| it.netns.as_ref());
    let mut captured: HashSet<u64> = enrolled.map(|netns| netns.inode()).collect();
    captured.insert(host);
    captured
}

/// Which workloads have such processes, as of the last look at each.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(BTreeMap<ObjectKey, bool>);

impl Elsewhere {
    /// Whether some processes in the cgroup at `path`, or in one below, are in none of the network namespaces with the inodes
    /// `captured`. Processes come and go: only with `looks` are those of a workload looked at again.
    pub(super) fn has(
        &mut self,
        (key, path): (&ObjectKey, &Path),
        captured: &HashSet<u64>,
        looks: bool,
    ) -> bool {
        let known = self.0.get(key).filter(|_| !looks);
        let has = known.copied().unwrap_or_else(|| is_left(path, captured));
        self.0.insert(key.clone(), has);
        has
    }

    /// Forgets workloads that are there no more.
    pub(super) fn retain(&mut self, is_there: impl Fn(&ObjectKey) -> bool) {
        self.0.retain(|key, _| is_there(key));
    }
}

fn is_left(path: &Path, captured: &HashSet<u64>) -> bool {
    processes(path).into_iter().any(|process| {
        // One that is gone, or that nobody may look at, is not told about.
        let netns = fs::metadata(format!("/proc/{process}/ns/net"));
        netns.is_ok_and(|netns| !captured.contains(&netns.ino()))
    })
}

/// The first processes in a cgroup and those below.
fn processes(path: &Path) -> Vec<u32> {
    let mut processes = Vec::new();
    let mut open = vec![path.to_owned()];
    for _ in 0..MAX_CGROUPS {
        let Some(directory) = open.pop().filter(|_| processes.len() < MAX_PROCESSES) else {
            break;
        };
        let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        processes.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(below.map(|entry| entry.path()));
    }
    processes.truncate(MAX_PROCESSES);
    processes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::ebpf::mirror::Place;
    use crate::net::netns::Netns;

    use super::*;

    fn own_netns() -> u64 {
        fs::metadata("/proc/self/ns/net").unwrap().ino()
    }

    /// What looks like a cgroup with this process in one below.
    fn cgroup() -> tempfile::TempDir {
        let cgroup = tempfile::tempdir().unwrap();
        let below = cgroup.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::write(cgroup.path().join("cgroup.procs"), "").unwrap();
        fs::write(
            below.join("cgroup.procs"),
            format!("{}\n", std::process::id()),
        )
        .unwrap();
        cgroup
    }

    #[test]
    fn processes_come_and_go_and_are_looked_at_when_it_is_time() {
        let (cgroup, key) = (cgroup(), ObjectKey::new("shop", "host"));
        let workload = (&key, cgroup.path());
        let captured = HashSet::from([own_netns() + 1]);
        let mut elsewhere = Elsewhere::default();
        assert!(elsewhere.has(workload, &captured, false), "a first look");
        fs::write(cgroup.path().join("below/cgroup.procs"), "").unwrap();
        assert!(elsewhere.has(workload, &captured, false), "not looked at");
        assert!(!elsewhere.has(workload, &captured, true));
        elsewhere.retain(|_| false);
        fs::write(
            cgroup.path().join("cgroup.procs"),
            std::process::id().to_string(),
        )
        .unwrap();
        assert!(elsewhere.has(workload, &captured, false), "it is another");
    }

    #[test]
    fn processes_in_a_namespace_that_is_enrolled_are_not_left() {
        let (cgroup, key) = (cgroup(), ObjectKey::new("shop", "host"));
        let host = own_netns() + 1;
        let mut found = BTreeMap::new();
        let has = |found: &BTreeMap<ObjectKey, Found>| {
            Elsewhere::default().has((&key, cgroup.path()), &captured(host, found), true)
        };
        assert!(has(&found));
        let netns = Arc::new(Netns::current().unwrap());
        let pod = Found {
            place: Place::Netns(netns.cookie()),
            netns: Some(netns),
        };
        found.insert(ObjectKey::new("shop", "pod"), pod);
        assert!(!has(&found));
    }
}

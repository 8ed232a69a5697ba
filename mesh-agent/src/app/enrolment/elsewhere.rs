//! Processes of a workload's cgroup that are in another network namespace than the agent: the hooks know callers by cgroup
//! only in the agent's own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::obstacle::Obstacle;

/// Most processes of one workload that are looked at, every second.
const MAX_PROCESSES: usize = 256;
/// Most cgroups of one workload that are looked at.
const MAX_CGROUPS: usize = 256;

/// What says that processes in the cgroup at `path`, or in one below, are in another network namespace than that with
/// inode `host`, if some are.
pub(super) fn obstacle(path: &Path, host: u64) -> Option<Obstacle> {
    let is_elsewhere = |process: &u32| {
        // One that is gone, or that nobody may look at, is not told about.
        let netns = fs::metadata(format!("/proc/{process}/ns/net"));
        netns.is_ok_and(|netns| netns.ino() != host)
    };
    let elsewhere: Vec<u32> = processes(path).into_iter().filter(is_elsewhere).collect();
    Some(Obstacle::Elsewhere {
        path: path.to_owned(),
        count: elsewhere.len(),
        process: *elsewhere.first()?,
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

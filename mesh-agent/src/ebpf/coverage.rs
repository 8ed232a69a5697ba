//! Where the connections of each workload went, bypass included: from the kernel's counters, and from what the kernel's
//! programs cannot see.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use mesh_common::stats::{Counter, StatKey};
use mesh_common::verdict::Reason;

use super::inet_diag::{self, Storages, state};
use crate::net::netns::Netns;
use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::report::Coverage;

#[cfg(test)]
mod tests;

/// What the kernel's programs do not see of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// Connections that were there before the enrolment: see [`older`].
    pub older: u64,
    /// Processes in its network namespace that run outside the hooked cgroup: see [`outside_cgroup`].
    pub outside_cgroup: u64,
}

/// Coverage of every workload, in the order of their names.
#[must_use]
pub fn coverage(
    snapshot: &Snapshot,
    stats: &[(StatKey, u64)],
    unseen: &BTreeMap<ObjectKey, Unseen>,
) -> Vec<Coverage> {
    let mut counters: BTreeMap<u32, Vec<&(StatKey, u64)>> = BTreeMap::new();
    for entry in stats {
        counters.entry(entry.0.subject).or_default().push(entry);
    }
    snapshot
        .workloads
        .keys()
        .map(|key| {
            let number = snapshot.ids.number(&Subject::Workload(key.clone()));
            let mut coverage = Coverage {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                ..Coverage::default()
            };
            // Number 0 is nobody's.
            let counters = counters.get(&number).filter(|_| number != 0);
            for (stat, count) in counters.into_iter().flatten() {
                add(&mut coverage, *stat, *count);
            }
            let unseen = unseen.get(key).copied().unwrap_or_default();
            bypassed(&mut coverage, Reason::Older, unseen.older);
            bypassed(&mut coverage, Reason::OutsideCgroup, unseen.outside_cgroup);
            coverage
        })
        .collect()
}

fn add(coverage: &mut Coverage, stat: StatKey, count: u64) {
    let field = match stat.counter {
        counter if counter == Counter::Pass as u16 => &mut coverage.passed,
        counter if counter == Counter::Direct as u16 => &mut coverage.direct,
        counter if counter == Counter::Proxy as u16 => &mut coverage.captured,
        counter if counter == Counter::Deny as u16 => &mut coverage.denied,
        counter if counter == Counter::Bypass as u16 => &mut coverage.bypassed,
        _ => return,
    };
    *field += count;
    let reason = Reason::from_number(stat.reason).unwrap_or_default();
    *coverage
        .reasons
        .entry(reason.as_str().to_owned())
        .or_default() += count;
}

fn bypassed(coverage: &mut Coverage, reason: Reason, count: u64) {
    if count > 0 {
        coverage.bypassed += count;
        *coverage
            .reasons
            .entry(reason.as_str().to_owned())
            .or_default() += count;
    }
}

/// Counts the connections that a workload had dialled before it was enrolled: no hook has seen them, none will.
///
/// Called once, when the workload is enrolled, on a thread that may block. With `cgroups` (ids of the workload's cgroup
/// and all below) only sockets made there count. A socket on a port that is listened on was accepted, not dialled.
pub fn older(
    netns: &Netns,
    storages: Option<Storages<'_>>,
    cgroups: Option<&BTreeSet<u64>>,
) -> io::Result<u64> {
    netns.run(|| {
        let mut listening = BTreeSet::new();
        inet_diag::visit(1 << state::LISTEN, None, |socket| {
            listening.insert(socket.local.port());
            true
        })?;
        let mut count = 0;
        inet_diag::visit(OPEN_STATES, storages, |socket| {
            let is_dialled = !listening.contains(&socket.local.port());
            // What a host says to itself is not steered either.
            let remote = socket.remote.ip();
            let is_remote = !remote.is_loopback() && remote != socket.local.ip();
            let is_own = cgroups.is_none_or(|cgroups| cgroups.contains(&socket.cgroup));
            count += u64::from(is_dialled && is_remote && is_own && socket.conn.is_none());
            true
        })?;
        Ok(count)
    })?
}

/// The ids of the cgroup at `path` and of all below it, at most [`MAX_CGROUPS`].
#[must_use]
pub fn cgroups_below(path: &Path) -> BTreeSet<u64> {
    let mut ids = BTreeSet::new();
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop()
        && ids.len() < MAX_CGROUPS
    {
        // A cgroup that goes meanwhile has no sockets left.
        ids.extend(fs::metadata(&directory).map(|metadata| metadata.ino()));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(below.map(|entry| entry.path()));
    }
    ids
}

/// Most cgroups of one workload that are looked at.
const MAX_CGROUPS: usize = 4096;

/// States of a connection that may carry bytes.
const OPEN_STATES: u32 = 1 << state::ESTABLISHED
    | 1 << state::SYN_SENT
    | 1 << state::FIN_WAIT1
    | 1 << state::FIN_WAIT2
    | 1 << state::CLOSE_WAIT;

/// Counts the processes in the network namespace with inode `netns` whose sockets no hook sees, because their cgroup is
/// not `hooked` or below it. `hooked` is a path as in `/proc/PID/cgroup`, so that `/` is the whole machine.
#[must_use]
pub fn outside_cgroup(netns: u64, hooked: &Path) -> u64 {
    outside_cgroup_of(Path::new("/proc"), netns, hooked)
}

fn outside_cgroup_of(proc: &Path, netns: u64, hooked: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(proc) else {
        return 0;
    };
    let wanted = format!("net:[{netns}]");
    let outside = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        .filter(|entry| {
            // A process that ends meanwhile is none.
            let link = fs::read_link(entry.path().join("ns/net"));
            link.is_ok_and(|link| link.as_os_str() == wanted.as_str())
        })
        .filter(|entry| {
            let cgroup = fs::read_to_string(entry.path().join("cgroup"));
            cgroup.is_ok_and(|cgroup| !is_below(&cgroup, hooked))
        });
    u64::try_from(outside.count()).unwrap_or(u64::MAX)
}

/// Whether a `/proc/PID/cgroup` names a place at or below `hooked` in the unified hierarchy.
fn is_below(cgroup: &str, hooked: &Path) -> bool {
    cgroup
        .lines()
        .filter_map(|line| line.strip_prefix("0::"))
        .any(|path| Path::new(path).starts_with(hooked))
}

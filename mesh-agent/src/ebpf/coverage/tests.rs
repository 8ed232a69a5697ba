//! Tests of the sums, and of the search for what no hook sees.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use mesh_common::stats::{Counter, StatKey};
use mesh_common::verdict::Reason;
use serde_json::json;

use super::{Unseen, coverage, outside_cgroup_of};
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::traffic::fixture::Fixture;

fn stat(subject: u32, counter: Counter, reason: Reason) -> StatKey {
    StatKey {
        subject,
        counter: counter as u16,
        reason: reason as u16,
    }
}

#[test]
fn captured_is_what_went_through_the_proxy_only() {
    let key = ObjectKey::new("shop", "client");
    let snapshot = Fixture::default()
        .workload("client", &json!({"netns": "/run/netns/client"}))
        .snapshot();
    let number = snapshot.ids.number(&Subject::Workload(key.clone()));
    let stats = [
        (stat(number, Counter::Proxy, Reason::Service), 5),
        (stat(number, Counter::Direct, Reason::Service), 7),
        (stat(number, Counter::Direct, Reason::AgentAbsent), 1),
        (stat(number, Counter::Pass, Reason::NoService), 2),
        (stat(number, Counter::Deny, Reason::Policy), 3),
        (stat(number, Counter::Bypass, Reason::NoVerdict), 4),
        (stat(number, Counter::AuditDeny, Reason::Policy), 9),
        (stat(number + 1, Counter::Pass, Reason::NoService), 99),
        (stat(0, Counter::Pass, Reason::NoService), 99),
    ];
    let unseen = BTreeMap::from([(
        key,
        Unseen {
            older: 10,
            outside_cgroup: 1,
        },
    )]);
    let items = coverage(&snapshot, &stats, &unseen);
    assert_eq!(items.len(), 1);
    let item = &items[0];
    assert_eq!(
        (item.captured, item.direct, item.passed, item.denied),
        (5, 8, 2, 3)
    );
    assert_eq!(item.bypassed, 4 + 10 + 1);
    assert_eq!(item.reasons["service"], 12);
    assert_eq!(item.reasons["agent-absent"], 1);
    assert_eq!(item.reasons["older"], 10);
    assert_eq!(item.reasons["outside-cgroup"], 1);
    assert_eq!(item.reasons["policy"], 3);
}

#[test]
fn processes_outside_the_hooked_cgroup_are_counted() -> io::Result<()> {
    let proc = tempfile::tempdir()?;
    for (pid, netns, cgroup) in [
        ("10", 7, "0::/mesh/client\n"),
        ("11", 7, "12:cpu:/other\n0::/mesh\n"),
        ("12", 7, "0::/system.slice/sshd\n"),
        ("13", 7, "0::/mesh-other\n"),
        ("14", 8, "0::/system.slice/cron\n"),
        ("self", 7, "0::/system.slice/sshd\n"),
    ] {
        let directory = proc.path().join(pid);
        fs::create_dir_all(directory.join("ns"))?;
        symlink(format!("net:[{netns}]"), directory.join("ns/net"))?;
        fs::write(directory.join("cgroup"), cgroup)?;
    }
    assert_eq!(outside_cgroup_of(proc.path(), 7, Path::new("/mesh")), 2);
    assert_eq!(outside_cgroup_of(proc.path(), 7, Path::new("/")), 0);
    assert_eq!(outside_cgroup_of(proc.path(), 9, Path::new("/mesh")), 0);
    Ok(())
}

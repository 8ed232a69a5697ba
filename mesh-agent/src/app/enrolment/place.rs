//! Where workloads are. Pure.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use mesh_common::workload::Workload as Entry;

use crate::ebpf::mirror::{Held, Place};
use crate::net::netns::Netns;
use crate::state::workload::Workload;

/// Where a workload is.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    /// The namespace of its sockets; absent where it cannot be opened now.
    pub(super) netns: Option<Arc<Netns>>,
}

/// Whether an error says nothing about the path, but that something is used up.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EAGAIN | libc::EINTR
        )
    )
}

/// Where the kernel has the workload with this number.
pub(super) fn in_kernel(held: &Held, workload: &Workload, number: u32) -> Option<Place> {
    let key_of = |map: &BTreeMap<u64, Entry>| {
        let mut entries = map.iter().filter(|_| number != 0);
        let entry = entries.find(|(_, entry)| entry.id == number);
        entry.map(|(key, _)| *key)
    };
    if workload.spec.netns.is_some() {
        key_of(&held.workloads).map(Place::Netns)
    } else {
        key_of(&held.cgroups).map(Place::Cgroup)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::object::ObjectKey;
    use crate::traffic::fixture::Fixture;

    fn entry(id: u32) -> Entry {
        Entry {
            id,
            ..Entry::default()
        }
    }

    #[test]
    fn a_workload_is_where_the_kernel_has_its_number() {
        let fixture = Fixture::default()
            .workload("pod", &json!({"netns": "/run/netns/pod"}))
            .workload("unit", &json!({"cgroup": "/sys/fs/cgroup/unit"}));
        let snapshot = fixture.snapshot();
        let workload = |name: &str| &snapshot.workloads[&ObjectKey::new("shop", name)];
        let held = Held {
            workloads: BTreeMap::from([(70, entry(1)), (71, entry(2))]),
            cgroups: BTreeMap::from([(80, entry(2)), (81, entry(0))]),
            ..Held::default()
        };
        let place = |name: &str, number| in_kernel(&held, workload(name), number);
        assert_eq!(place("pod", 2), Some(Place::Netns(71)));
        assert_eq!(place("unit", 2), Some(Place::Cgroup(80)));
        assert_eq!(place("unit", 1), None, "it was found by its namespace then");
        assert_eq!(place("unit", 0), None, "what has no number is nobody");
    }

    #[test]
    fn a_path_that_leads_nowhere_is_no_shortage() {
        let error = io::Error::from_raw_os_error;
        assert!(is_shortage(&error(libc::EMFILE)));
        assert!(!is_shortage(&error(libc::ENOENT)));
        assert!(!is_shortage(&error(libc::EINVAL)));
    }
}

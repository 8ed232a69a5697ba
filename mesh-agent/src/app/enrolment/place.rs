//! Where workloads are. Pure.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use mesh_common::workload::Workload as Entry;

use crate::ebpf::mirror::{Held, Place};
use crate::net::netns::Netns;
use crate::state::object::ObjectKey;
use crate::state::workload::Workload;

/// Where a workload is.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    /// The namespace of its sockets; absent where it cannot be opened now.
    pub(super) netns: Option<Arc<Netns>>,
}

/// Gives each place to one workload: to the one that `holder` says has it, else to the first by name. Takes the others
/// out of `found`, and returns whom they met.
pub(super) fn share(
    found: &mut BTreeMap<ObjectKey, Found>,
    holder: impl Fn(Place) -> Option<ObjectKey>,
) -> BTreeMap<ObjectKey, ObjectKey> {
    let mut owners: HashMap<Place, ObjectKey> = HashMap::new();
    for (key, Found { place, .. }) in &*found {
        owners.entry(*place).or_insert_with(|| {
            let is_here = |other: &ObjectKey| found.get(other).is_some_and(|it| it.place == *place);
            holder(*place)
                .filter(is_here)
                .unwrap_or_else(|| key.clone())
        });
    }
    let mut others = BTreeMap::new();
    found.retain(|key, it| {
        let owner = owners.get(&it.place).filter(|owner| *owner != key);
        others.extend(owner.map(|owner| (key.clone(), owner.clone())));
        owner.is_none()
    });
    others
}

/// The number of the workload that the kernel has at a place.
pub(super) fn number_at(held: &Held, place: Place) -> Option<u32> {
    let entry = match place {
        Place::Netns(cookie) => held.workloads.get(&cookie),
        Place::Cgroup(id) => held.cgroups.get(&id),
    };
    entry.map(|it| it.id)
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

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    fn found(places: &[(&str, Place)]) -> BTreeMap<ObjectKey, Found> {
        let netns = None;
        let found = places.iter().map(|(name, place)| {
            let place = *place;
            (
                key(name),
                Found {
                    place,
                    netns: netns.clone(),
                },
            )
        });
        found.collect()
    }

    #[test]
    fn a_place_is_given_to_one_and_stays_with_whom_the_kernel_has_there() {
        let (shared, own) = (Place::Netns(7), Place::Cgroup(7));
        let all = [("a", shared), ("b", shared), ("c", own)];
        let shared_with = |holder: Option<&str>| {
            let mut found = found(&all);
            let at = |place| holder.filter(|_| place == shared).map(key);
            let others = share(&mut found, at);
            (found.into_keys().collect::<Vec<_>>(), others)
        };
        let to_a = (vec![key("a"), key("c")], [(key("b"), key("a"))].into());
        assert_eq!(shared_with(None), to_a);
        assert_eq!(shared_with(Some("gone")), to_a);
        assert_eq!(shared_with(Some("c")), to_a, "it is elsewhere now");
        let to_b = (vec![key("b"), key("c")], [(key("a"), key("b"))].into());
        assert_eq!(shared_with(Some("b")), to_b);
    }

    #[test]
    fn a_path_that_leads_nowhere_is_no_shortage() {
        let error = io::Error::from_raw_os_error;
        assert!(is_shortage(&error(libc::EMFILE)));
        assert!(!is_shortage(&error(libc::ENOENT)));
        assert!(!is_shortage(&error(libc::EINVAL)));
    }
}

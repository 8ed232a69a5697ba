//! Endpoints of other nodes that are missing after etcd was away: their leases may have run out only because nobody could
//! renew them. Pure.
//!
//! Where etcd was away from every node for longer than the leases last, it takes all endpoints away as soon as it is back,
//! a moment before their nodes register them again. For that moment they are kept. A node that is dead does not come
//! back, and its endpoints go when the grace is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::state::object::ObjectKey;

/// Which nodes hold a lease, and which endpoints are missing.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// The write by which each node got its lease.
    nodes: BTreeMap<String, i64>,
    missing: BTreeMap<ObjectKey, Instant>,
    /// Until when a lease may have run out because etcd was away.
    doubtful_until: Option<Instant>,
}

impl Absence {
    /// etcd is back at `now`. Leases that run out within `grace` may have run out while it was away.
    pub(super) fn came_back(&mut self, now: Instant, grace: Duration) {
        self.doubtful_until = Some(now + grace);
    }

    /// A node has a lease, since the write `revision`.
    pub(super) fn node_is_there(&mut self, node: &str, revision: i64) {
        self.nodes.insert(node.to_owned(), revision);
    }

    /// The lease of a node is gone.
    pub(super) fn node_is_gone(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// Every node that has a lease; the others have none.
    pub(super) fn nodes_are(&mut self, nodes: BTreeMap<String, i64>) {
        self.nodes = nodes;
    }

    /// The leases that are known.
    pub(super) const fn nodes(&self) -> &BTreeMap<String, i64> {
        &self.nodes
    }

    /// Whether an endpoint that is missing is kept until its node had time to come back: where it had no chance to renew its
    /// lease, or has a new one and no chance to register the endpoint with that before etcd was away once more.
    pub(super) fn keeps(&mut self, key: &ObjectKey, has_lease: bool, now: Instant) -> bool {
        let Some(until) = self.doubtful_until.filter(|until| now < *until) else {
            return false;
        };
        if has_lease && !self.missing.contains_key(key) {
            return false;
        }
        self.missing.insert(key.clone(), until);
        true
    }

    /// An endpoint is there again, or was deleted.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.missing.remove(key);
    }

    /// The endpoints that are missing for good.
    pub(super) fn due(&mut self, now: Instant) -> Vec<ObjectKey> {
        let due = self.missing.iter().filter(|(_, until)| **until <= now);
        let due: Vec<_> = due.map(|(key, _)| key.clone()).collect();
        for key in &due {
            self.missing.remove(key);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(15);

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    #[test]
    fn endpoint_of_a_node_that_could_not_renew_is_kept_for_a_while() {
        let mut absence = Absence::default();
        let start = Instant::now();
        assert!(
            !absence.keeps(&key("a"), false, start),
            "etcd was there all the time"
        );

        absence.came_back(start, GRACE);

        assert!(absence.keeps(&key("a"), false, start));
        assert!(absence.keeps(&key("b"), false, start));
        assert!(
            !absence.keeps(&key("c"), true, start),
            "its node has its lease: somebody has deleted it"
        );
        absence.forget(&key("a"));
        assert_eq!(absence.due(start + GRACE / 2), []);
        assert_eq!(absence.due(start + GRACE), [key("b")]);
        assert_eq!(absence.due(start + GRACE), []);
        assert!(!absence.keeps(&key("a"), false, start + GRACE));
    }

    #[test]
    fn endpoint_that_was_missing_before_etcd_went_away_again_has_its_time_again() {
        let mut absence = Absence::default();
        let start = Instant::now();
        absence.came_back(start, GRACE);
        assert!(absence.keeps(&key("a"), false, start));
        let again = start + 2 * GRACE;

        absence.came_back(again, GRACE);

        assert!(
            absence.keeps(&key("a"), true, again),
            "its node has a lease, and has not registered it with that"
        );
        assert_eq!(absence.due(again), []);
        assert_eq!(absence.due(again + GRACE), [key("a")]);
    }
}

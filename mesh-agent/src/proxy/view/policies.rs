//! Which traffic policy is for which target.

use std::sync::Arc;

use super::SharedTable;
use crate::proxy::policy::Policy;
use crate::state::Snapshot;
use crate::state::object::{Kind, ObjectKey};
use crate::state::traffic_policy::TrafficPolicy;

/// The traffic policies of a snapshot that are in force.
pub(super) struct Policies<'a> {
    snapshot: &'a Snapshot,
    /// Stands for no policy; the same in every view.
    empty: &'a Arc<Policy>,
}

impl<'a> Policies<'a> {
    pub(super) const fn of(snapshot: &'a Snapshot, empty: &'a Arc<Policy>) -> Self {
        Self { snapshot, empty }
    }

    /// The policy of a service; `old` holds those of the last view.
    pub(super) fn service(
        &self,
        key: &ObjectKey,
        old: &SharedTable<ObjectKey, Arc<Policy>>,
    ) -> Arc<Policy> {
        let object = self.object(Kind::Service, key, None);
        Policy::derive(self.empty, object, old.get(key))
    }

    /// The policy that is for a service, a route, or one rule of a route.
    pub(super) fn object(
        &self,
        kind: Kind,
        key: &ObjectKey,
        section: Option<&str>,
    ) -> Option<&'a Arc<TrafficPolicy>> {
        self.snapshot.traffic_policy_for(kind, key, section)
    }
}

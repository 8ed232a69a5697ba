//! Which traffic policy is for which target.

use std::collections::HashMap;
use std::sync::Arc;

use super::Table;
use crate::proxy::policy::Policy;
use crate::state::Snapshot;
use crate::state::object::{Kind, ObjectKey};
use crate::state::traffic_policy::TrafficPolicy;

/// A service, a route, or one rule of a route.
type Target<'a> = (Kind, &'a str, &'a str, Option<&'a str>);

/// The traffic policies of a snapshot that are in force, by target.
pub(super) struct Policies<'a> {
    objects: HashMap<Target<'a>, &'a Arc<TrafficPolicy>>,
    /// Stands for no policy; the same in every view.
    empty: Arc<Policy>,
}

impl<'a> Policies<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, empty: &Arc<Policy>) -> Self {
        let in_force = snapshot
            .traffic_policies
            .values()
            .filter(|object| object.is_in_force());
        let objects = in_force.map(|object| {
            let target = &object.spec.target;
            let section = target.section_name.as_deref();
            let namespace = object.metadata.namespace.as_str();
            (
                (target.kind, namespace, target.name.as_str(), section),
                object,
            )
        });
        Self {
            objects: objects.collect(),
            empty: Arc::clone(empty),
        }
    }

    /// The policy of a service; `old` holds those of the last view.
    pub(super) fn service(
        &self,
        key: &ObjectKey,
        old: &Table<ObjectKey, Arc<Policy>>,
    ) -> Arc<Policy> {
        let object = self.object(Kind::Service, key, None);
        Policy::derive(&self.empty, object, old.get(key))
    }

    /// The policy that is for a target.
    pub(super) fn object(
        &self,
        kind: Kind,
        key: &ObjectKey,
        section: Option<&str>,
    ) -> Option<&'a Arc<TrafficPolicy>> {
        let target = (kind, key.namespace.as_str(), key.name.as_str(), section);
        self.objects.get(&target).copied()
    }
}

//! The faults of a target. They are meant to hurt, so that they come into force is written to the log.

use std::sync::Arc;

use crate::state::object::ObjectKey;
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fault;

/// Faults of all levels; each level draws for itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(pub(crate) Vec<Arc<Level>>);

/// Faults of one policy.
#[derive(Debug)]
pub(crate) struct Level {
    /// The policy that they are part of.
    pub(crate) policy: ObjectKey,
    /// What is done, and to whom.
    pub(crate) faults: fault::Faults,
}

impl Faults {
    /// Faults of the level above, and those of `object`; `old` is what stood in its place in the last view.
    pub(crate) fn derive(base: &Self, object: &TrafficPolicy, old: Option<&TrafficPolicy>) -> Self {
        let mut all = base.0.clone();
        let faults = fault::Faults::compile(&object.spec.faults);
        if !faults.is_empty() {
            let policy = object.key();
            if old.is_none_or(|old| old.spec.faults != object.spec.faults) {
                let target = &object.spec.target;
                tracing::warn!(
                    %policy,
                    target_kind = ?target.kind,
                    target_name = target.name,
                    count = object.spec.faults.len(),
                    "faults are injected on purpose"
                );
            }
            all.push(Arc::new(Level { policy, faults }));
        } else if old.is_some_and(|old| !old.spec.faults.is_empty()) {
            tracing::info!(policy = %object.key(), "faults are no longer injected");
        }
        Self(all)
    }
}

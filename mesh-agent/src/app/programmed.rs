//! Says in the objects what the kernel does not hold of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::warn;

use crate::ebpf::mirror::SyncReport;
use crate::state::id::Subject;
use crate::state::object::{Condition, ConditionStatus, Kind, ObjectKey};
use crate::state::{Change, Store};

/// Keeps the conditions `Programmed` and `Accepted` true to what the last syncs said.
pub(super) struct Programmed {
    store: Arc<Store>,
    /// What is wrong now, and why.
    wrong: BTreeMap<Fault, String>,
}

/// One thing that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    kind: Kind,
    key: ObjectKey,
    reason: &'static str,
}

impl Programmed {
    pub(super) const fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            wrong: BTreeMap::new(),
        }
    }

    /// Takes up what came of a sync.
    pub(super) fn tell(&mut self, report: &SyncReport) {
        let wrong = faults(report);
        for (fault, message) in wrong
            .iter()
            .filter(|(fault, _)| !self.wrong.contains_key(fault))
        {
            warn!(kind = %fault.kind, object = %fault.key, reason = fault.reason, "{message}");
            self.condition(fault, ConditionStatus::False, fault.reason, message.clone());
        }
        for fault in self.wrong.keys().filter(|fault| !wrong.contains_key(fault)) {
            let reason = fault.condition();
            self.condition(fault, ConditionStatus::True, reason, String::new());
        }
        self.wrong = wrong;
    }

    fn condition(&self, fault: &Fault, status: ConditionStatus, reason: &str, message: String) {
        let condition = Condition {
            kind: fault.condition().to_owned(),
            status,
            reason: reason.to_owned(),
            message,
            observed_generation: 0,
        };
        let change = Change::Condition {
            kind: fault.kind,
            key: fault.key.clone(),
            condition,
        };
        if let Err(refusal) = self.store.apply(change) {
            warn!(object = %fault.key, %refusal, "cannot record a condition");
        }
    }
}

impl Fault {
    /// The condition that it makes false.
    fn condition(&self) -> &'static str {
        if self.reason == TOO_MANY_RULES {
            "Accepted"
        } else {
            "Programmed"
        }
    }
}

fn faults(report: &SyncReport) -> BTreeMap<Fault, String> {
    let refused = report.failures.iter().filter_map(|failure| {
        let (kind, key) = object(failure.subject.as_ref()?)?;
        let fault = Fault {
            kind,
            key: key.clone(),
            reason: KERNEL_REFUSED,
        };
        Some((fault, super::describe(failure)))
    });
    let too_many = report.too_many.iter().map(|key| {
        let fault = Fault { kind: Kind::AuthorizationPolicy, key: key.clone(), reason: TOO_MANY_RULES };
        (fault, "more rules meet at one address and port than the kernel holds: the policy is not in force as written".to_owned())
    });
    refused.chain(too_many).collect()
}

/// The object that a subject belongs to.
const fn object(subject: &Subject) -> Option<(Kind, &ObjectKey)> {
    match subject {
        Subject::Service(key) | Subject::Port(key, _) => Some((Kind::Service, key)),
        Subject::Endpoint(key, _) => Some((Kind::Endpoint, key)),
        Subject::Workload(key) => Some((Kind::Workload, key)),
        Subject::Policy(key) => Some((Kind::AuthorizationPolicy, key)),
        Subject::Namespace(_) | Subject::ServiceAccount(_) => None,
    }
}

const KERNEL_REFUSED: &str = "KernelRefused";
const TOO_MANY_RULES: &str = "TooManyRules";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Manifest;
    use crate::state::decode;

    fn store_with_service() -> (Arc<Store>, ObjectKey) {
        let store = Arc::new(Store::in_memory());
        let key = ObjectKey::new("shop", "web");
        let document = serde_json::json!({
            "apiVersion": "mesh.dev/v1alpha1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"ports": [{"name": "http", "port": 80}]}
        });
        let manifest: Manifest =
            decode::manifest(Kind::Service, &key, document).expect("a service");
        store.apply(Change::Put(manifest)).expect("applied");
        (store, key)
    }

    fn programmed(store: &Store, key: &ObjectKey) -> Condition {
        let snapshot = store.snapshot();
        let service = &snapshot.services[key];
        let mut conditions = service.status.conditions.iter();
        conditions
            .find(|condition| condition.kind == "Programmed")
            .expect("the condition")
            .clone()
    }

    fn refusal(key: &ObjectKey) -> SyncReport {
        let failure = crate::ebpf::mirror::Failure {
            map: "SERVICES",
            subject: Some(Subject::Port(key.clone(), "http".to_owned())),
            source: Box::new(std::io::Error::other("full")),
        };
        SyncReport {
            failures: vec![failure],
            ..SyncReport::default()
        }
    }

    #[test]
    fn a_write_that_the_kernel_refuses_shows_in_the_object_until_it_succeeds() {
        let (store, key) = store_with_service();
        let mut conditions = Programmed::new(Arc::clone(&store));

        conditions.tell(&refusal(&key));
        let refused = programmed(&store, &key);
        assert_eq!(
            (refused.status, refused.reason.as_str()),
            (ConditionStatus::False, KERNEL_REFUSED)
        );
        assert!(
            refused.message.contains("SERVICES") && refused.message.contains("full"),
            "{}",
            refused.message
        );

        conditions.tell(&SyncReport::default());
        assert_eq!(programmed(&store, &key).status, ConditionStatus::True);
    }
}

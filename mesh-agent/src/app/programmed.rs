//! Says in the objects what the kernel does not hold of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::warn;

use crate::ebpf::mirror::SyncReport;
use crate::state::id::Subject;
use crate::state::object::{Condition, ConditionStatus, Kind, ObjectKey};
use crate::state::{Change, Manifest, Origin, Snapshot, Source, Store};

/// Keeps the conditions `Programmed` and `Accepted` true to what the last syncs said.
pub(super) struct Programmed {
    store: Arc<Store>,
    /// What is wrong now, or was when an earlier agent ended.
    wrong: BTreeSet<Fault>,
}

/// One thing that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    kind: Kind,
    key: ObjectKey,
    reason: &'static str,
}

impl Programmed {
    pub(super) fn new(store: Arc<Store>) -> Self {
        let wrong = said(&store.snapshot());
        Self { store, wrong }
    }

    /// Takes up what came of a sync. What is wrong is said each time: whoever writes an object anew is told at first that
    /// it is in force.
    pub(super) fn tell(&mut self, report: &SyncReport) {
        let wrong = faults(report);
        let snapshot = self.store.snapshot();
        let mut changes = Vec::new();
        for (fault, message) in &wrong {
            if !self.wrong.contains(fault) {
                warn!(kind = %fault.kind, object = %fault.key, reason = fault.reason, "{message}");
            }
            changes.extend(fault.arrives(&snapshot, message));
        }
        let gone = self.wrong.iter().filter(|it| !wrong.contains_key(it));
        changes.extend(gone.filter_map(|it| it.leaves(&snapshot)));
        let origin = Origin::from(Source::Api);
        let changes = changes.into_iter().map(|it| (origin.clone(), it));
        for told in self.store.apply_all(changes) {
            if let Err(refusal) = told {
                warn!(%refusal, "cannot record a condition");
            }
        }
        self.wrong = wrong.into_keys().collect();
    }
}

impl Fault {
    /// The condition that it makes false.
    fn condition(&self) -> &'static str {
        if self.reason == TOO_MANY_RULES {
            ACCEPTED
        } else {
            PROGRAMMED
        }
    }

    /// Says in the object that it is wrong, unless that is said.
    fn arrives(&self, snapshot: &Snapshot, message: &str) -> Option<Change> {
        let object = snapshot.object(self.kind, &self.key)?;
        let condition = Condition {
            kind: self.condition().to_owned(),
            status: ConditionStatus::False,
            reason: self.reason.to_owned(),
            message: message.to_owned(),
            observed_generation: object.metadata().generation,
        };
        (!object.conditions().contains(&condition)).then(|| self.change(condition))
    }

    /// Says that it is right now, where the object still says that this is wrong.
    fn leaves(&self, snapshot: &Snapshot) -> Option<Change> {
        let object = snapshot.object(self.kind, &self.key)?;
        let mut conditions = object.conditions().iter();
        let is_said = conditions.any(|it| self.is(it));
        let condition = Condition {
            kind: self.condition().to_owned(),
            status: ConditionStatus::True,
            reason: self.condition().to_owned(),
            message: String::new(),
            observed_generation: object.metadata().generation,
        };
        is_said.then(|| self.change(condition))
    }

    /// Whether a condition of its object says this.
    fn is(&self, condition: &Condition) -> bool {
        condition.kind == self.condition()
            && condition.status == ConditionStatus::False
            && condition.reason == self.reason
    }

    fn change(&self, condition: Condition) -> Change {
        Change::Condition {
            kind: self.kind,
            key: self.key.clone(),
            condition,
        }
    }
}

/// What objects say is wrong with them.
fn said(snapshot: &Snapshot) -> BTreeSet<Fault> {
    let faults = snapshot.manifests().flat_map(|object: Manifest| {
        let faults = [KERNEL_REFUSED, TOO_MANY_RULES].map(|reason| Fault {
            kind: object.kind(),
            key: object.key(),
            reason,
        });
        let is_said = |it: &Fault| object.conditions().iter().any(|said| it.is(said));
        faults.into_iter().filter(is_said).collect::<Vec<_>>()
    });
    faults.collect()
}

/// What is wrong, each with a sentence.
fn faults(report: &SyncReport) -> BTreeMap<Fault, String> {
    let mut faults = BTreeMap::new();
    let refused = |subject: &Subject| {
        let (kind, key) = object(subject)?;
        Some(Fault {
            kind,
            key: key.clone(),
            reason: KERNEL_REFUSED,
        })
    };
    for failure in &report.failures {
        if let Some(fault) = failure.subject.as_ref().and_then(refused) {
            let message = faults.entry(fault);
            message.or_insert_with(|| super::describe(failure));
        }
    }
    for fault in report.unwritten.iter().filter_map(refused) {
        faults.entry(fault).or_insert_with(|| NOT_HELD.to_owned());
    }
    let too_many = report.too_many.iter().map(|key| {
        let fault = Fault {
            kind: Kind::AuthorizationPolicy,
            key: key.clone(),
            reason: TOO_MANY_RULES,
        };
        (fault, MEETING_RULES.to_owned())
    });
    faults.extend(too_many);
    faults
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

const ACCEPTED: &str = "Accepted";
const PROGRAMMED: &str = "Programmed";
const KERNEL_REFUSED: &str = "KernelRefused";
const TOO_MANY_RULES: &str = "TooManyRules";
/// Of an object whose own error is not among those that are described.
const NOT_HELD: &str = "the kernel does not hold all of it: it refused a write of this object, or one that must come before";
const MEETING_RULES: &str = "more rules meet at one address and port than the kernel holds: the policy is not in force as written";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::decode;

    fn store_with_service() -> (Arc<Store>, ObjectKey) {
        let store = Arc::new(Store::in_memory());
        let key = ObjectKey::new("shop", "web");
        put(&store, &key, 80);
        (store, key)
    }

    fn put(store: &Store, key: &ObjectKey, port: u16) {
        let document = serde_json::json!({
            "apiVersion": "mesh.dev/v1alpha1", "kind": "Service", "metadata": {"name": key.name, "namespace": key.namespace},
            "spec": {"ports": [{"name": "http", "port": port}]}
        });
        let manifest = decode::manifest(Kind::Service, key, document).expect("a service");
        store.apply(Change::Put(manifest)).expect("applied");
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
    #[test]
    fn service_that_is_written_anew_while_the_kernel_refuses_it_says_so_again() {
        let (store, key) = store_with_service();
        let mut conditions = Programmed::new(Arc::clone(&store));
        conditions.tell(&refusal(&key));
        put(&store, &key, 81);
        assert_eq!(programmed(&store, &key).status, ConditionStatus::True);

        conditions.tell(&refusal(&key));

        let refused = programmed(&store, &key);
        assert_eq!(refused.status, ConditionStatus::False);
        assert_eq!(refused.observed_generation, 2);
        let revision = store.snapshot().revision;
        conditions.tell(&refusal(&key));
        assert_eq!(store.snapshot().revision, revision, "it is said");
    }

    #[test]
    fn fault_that_is_gone_after_a_restart_is_taken_back() {
        let (store, key) = store_with_service();
        Programmed::new(Arc::clone(&store)).tell(&refusal(&key));

        Programmed::new(Arc::clone(&store)).tell(&SyncReport::default());

        assert_eq!(programmed(&store, &key).status, ConditionStatus::True);
    }

    #[test]
    fn object_whose_writes_were_held_back_or_not_described_says_so() {
        let (store, key) = store_with_service();
        let report = SyncReport {
            unwritten: [Subject::Service(key.clone())].into(),
            ..SyncReport::default()
        };

        Programmed::new(Arc::clone(&store)).tell(&report);

        let refused = programmed(&store, &key);
        assert_eq!(refused.reason, KERNEL_REFUSED);
        assert_eq!(refused.message, NOT_HELD);
    }

    #[test]
    fn verdict_that_took_the_place_of_a_fault_stays() {
        let store = Arc::new(Store::in_memory());
        let key = ObjectKey::new("shop", "p");
        let put = |rules: serde_json::Value| {
            let document = serde_json::json!({"spec": {
                "target": {"kind": "Service", "name": "web"}, "action": "Deny", "rules": rules}});
            let manifest = decode::manifest(Kind::AuthorizationPolicy, &key, document);
            store.apply(Change::Put(manifest.unwrap())).unwrap();
        };
        let accepted = || {
            let policy = Arc::clone(&store.snapshot().policies[&key]);
            let mut conditions = policy.status.conditions.iter();
            let found = conditions.find(|it| it.kind == ACCEPTED);
            found.map(|it| it.reason.clone())
        };
        let too_many = SyncReport {
            too_many: [key.clone()].into(),
            ..SyncReport::default()
        };
        put(serde_json::json!([{}]));
        let mut conditions = Programmed::new(Arc::clone(&store));
        conditions.tell(&too_many);
        assert_eq!(accepted().as_deref(), Some(TOO_MANY_RULES));
        put(serde_json::json!([]));

        conditions.tell(&SyncReport::default());

        assert_eq!(accepted().as_deref(), Some("NoEffect"));
    }
}

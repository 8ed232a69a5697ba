//! What the README shows is what the registry accepts.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that finds something else than it wants fails loudly"
)]

use mesh_agent::state::object::{ConditionStatus, Kind, ObjectKey};
use mesh_agent::state::{Applied, Change, Store, decode};
use serde_json::{Value, json};

fn apply(store: &Store, object: Value) -> Applied {
    let kind = object.get("kind").unwrap().as_str().unwrap();
    let kind = Kind::ALL.into_iter().find(|it| it.name() == kind).unwrap();
    let text = |name| object["metadata"][name].as_str().unwrap().to_owned();
    let key = ObjectKey::new(text("namespace"), text("name"));
    let manifest = decode::manifest(kind, &key, object.clone()).unwrap();
    store.apply(Change::Put(manifest)).unwrap()
}

#[test]
fn every_object_is_accepted_and_finds_what_it_names() {
    let store = Store::in_memory();
    for name in ["web", "web-next"] {
        let spec = json!({"ports": [{"name": "http", "port": 80, "protocol": "http"}]});
        let metadata = json!({"name": name, "namespace": "shop"});
        apply(
            &store,
            json!({"kind": "Service", "metadata": metadata, "spec": spec}),
        );
    }
    let mut count = 0;
    for block in include_str!("../../README.md").split("```yaml\n").skip(1) {
        let yaml = block.split("```").next().unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
        for document in documents {
            let (Applied::Created(object) | Applied::Changed(object)) = apply(&store, document)
            else {
                panic!("nothing came of it");
            };
            let conditions = object.conditions();
            assert!(!conditions.is_empty());
            for condition in conditions {
                assert_eq!(condition.status, ConditionStatus::True, "{condition:?}");
            }
            count += 1;
        }
    }
    assert!(count > 1, "the README shows objects");
}

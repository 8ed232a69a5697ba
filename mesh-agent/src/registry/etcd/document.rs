//! From an object of the store to a value in etcd, and back. Pure.
//!
//! A value is the object as `apply` takes it, so that people can write it, too. What the agents add is who the object is
//! (`uid`, `creationTimestamp`, `generation`), the virtual addresses that were allotted for all nodes, and the node that
//! has registered it.

use serde_json::{Map, Value};

use crate::state::object::{Kind, Metadata, ObjectKey};
use crate::state::{Manifest, Refusal, decode};

/// An object, and the node whose lease it has; empty: none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) object: Manifest,
    pub(super) node: String,
}

/// Metadata that differs from node to node.
const LOCAL: [&str; 5] = [
    "resourceVersion",
    "source",
    "origin",
    "createdAt",
    "updatedAt",
];
const ADDRESSES: &str = "addresses";
const NODE: &str = "node";

/// The value of an object.
pub(super) fn write(object: &Manifest, node: &str) -> serde_json::Result<Vec<u8>> {
    let mut document = serde_json::to_value(object)?;
    let mut status = Map::new();
    if let Manifest::Service(service) = object {
        let addresses = serde_json::to_value(&service.status.addresses)?;
        status.insert(ADDRESSES.to_owned(), addresses);
    }
    if !node.is_empty() {
        status.insert(NODE.to_owned(), Value::from(node));
    }
    if let Some(Value::Object(metadata)) = document.get_mut("metadata") {
        metadata.retain(|name, _| !LOCAL.contains(&name.as_str()));
    }
    if let Some(document) = document.as_object_mut() {
        document.insert("status".to_owned(), Value::Object(status));
    }
    serde_json::to_vec(&document)
}

/// Reads a value.
pub(super) fn read(kind: Kind, key: &ObjectKey, value: &[u8]) -> Result<Shared, Refusal> {
    let document: Value = serde_json::from_slice(value)
        .map_err(|error| Refusal::invalid("", format!("it is not JSON: {error}")))?;
    let stamp = document.get("metadata").cloned();
    let status = document.get("status").cloned().unwrap_or_default();
    let mut object = decode::manifest(kind, key, document)?;
    adopt_stamp(object.metadata_mut(), stamp.as_ref());
    if let Manifest::Service(service) = &mut object
        && let Some(addresses) = status.get(ADDRESSES)
    {
        let addresses = serde_json::from_value(addresses.clone());
        std::sync::Arc::make_mut(service).status.addresses =
            addresses.map_err(|error| Refusal::invalid("status.addresses", error.to_string()))?;
    }
    let node = status.get(NODE).and_then(Value::as_str).unwrap_or_default();
    Ok(Shared {
        object,
        node: node.to_owned(),
    })
}

fn adopt_stamp(metadata: &mut Metadata, stamp: Option<&Value>) {
    let text = |name: &str| {
        let value = stamp.and_then(|it| it.get(name)).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    metadata.uid = text("uid");
    metadata.creation_timestamp = text("creationTimestamp");
    metadata.resource_version = String::new();
    let generation = stamp.and_then(|it| it.get("generation"));
    metadata.generation = generation.and_then(Value::as_u64).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::{Applied, Change, Store};

    fn key() -> ObjectKey {
        ObjectKey::new("shop", "web")
    }

    fn stored(kind: Kind, spec: &Value) -> Manifest {
        let store = Store::in_memory();
        let metadata = json!({"name": "web", "namespace": "shop", "labels": {"a": "b"}});
        let document = json!({"metadata": metadata, "spec": spec});
        let object = decode::manifest(kind, &key(), document).unwrap();
        match store.apply(Change::Put(object)).unwrap() {
            Applied::Created(object) => object,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn service_keeps_who_it_is_and_its_addresses() {
        let service = stored(
            Kind::Service,
            &json!({"ports": [{"name": "http", "port": 80}]}),
        );

        let value = write(&service, "").unwrap();
        let read = read(Kind::Service, &key(), &value).unwrap();

        assert_eq!(read.node, "");
        let (Manifest::Service(old), Manifest::Service(new)) = (&service, &read.object) else {
            panic!("they are services")
        };
        assert_eq!(new.spec, old.spec);
        assert_eq!(new.status.addresses, old.status.addresses);
        assert_eq!(new.status.conditions, [], "each node judges alone");
        assert_eq!(new.metadata.uid, old.metadata.uid);
        assert_eq!(new.metadata.labels, old.metadata.labels);
        assert_eq!(
            new.metadata.creation_timestamp,
            old.metadata.creation_timestamp
        );
        assert_eq!(new.metadata.resource_version, "", "each node counts alone");
    }

    #[test]
    fn endpoint_says_whose_it_is() {
        let spec = json!({"service": "web", "address": "10.0.0.1"});
        let endpoint = stored(Kind::Endpoint, &spec);
        let value = write(&endpoint, "node-a").unwrap();
        let read = read(Kind::Endpoint, &key(), &value).unwrap();
        assert_eq!(read.node, "node-a");
    }

    #[test]
    fn people_may_write_an_object_as_they_apply_it() {
        let text = br#"{"kind": "Service", "spec": {"ports": [{"name": "http", "port": 80}]}}"#;
        let read = read(Kind::Service, &key(), text).unwrap();
        assert_eq!(read.object.key(), key());
        assert_eq!(read.object.metadata().uid, "");
    }

    #[test]
    fn bad_value_is_refused_with_its_field() {
        for (text, part) in [
            ("{", "not JSON"),
            (
                r#"{"spec": {"ports": [{"name": "a", "port": 99999}]}}"#,
                "spec.ports[0].port",
            ),
            (
                r#"{"metadata": {"name": "api"}, "spec": {"ports": []}}"#,
                "metadata.name",
            ),
            (
                r#"{"spec": {"ports": []}, "status": {"addresses": ["x"]}}"#,
                "status.addresses",
            ),
        ] {
            let refused = read(Kind::Service, &key(), text.as_bytes()).unwrap_err();
            assert!(refused.to_string().contains(part), "{refused}");
        }
    }
}

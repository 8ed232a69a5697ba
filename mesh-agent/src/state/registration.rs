//! Registering and deregistering endpoints one by one, with the service that is made for them.
//!
//! Such a service has the ports of its endpoints, and goes with the last of them. A service that people made is left as
//! it is.

use std::collections::BTreeSet;

use super::endpoint::Endpoint;
use super::life::MADE_FOR_ENDPOINTS;
use super::object::{ABSENT, API_VERSION, Kind, Metadata, ObjectKey};
use super::service::{Port, Protocol, Service, ServiceSpec, ServiceStatus};
use super::validate::MAX_PORTS;
use super::{Change, Manifest, Snapshot};

/// What has to be done to the service of an endpoint that came or went, if anything: it is made, its ports follow those
/// of its endpoints, or it goes with the last one. `annotations` are for a service that is made.
#[must_use]
pub fn follow(
    snapshot: &Snapshot,
    key: &ObjectKey,
    annotations: &[(&str, String)],
) -> Option<Change> {
    let endpoints: Vec<&Endpoint> = snapshot.endpoints_of(key).map(AsRef::as_ref).collect();
    let Some(service) = snapshot.services.get(key) else {
        let is_needed = !endpoints.is_empty();
        return is_needed.then(|| put(made(key, ports(&endpoints), annotations)));
    };
    if !is_made(service) {
        return None;
    }
    if endpoints.is_empty() {
        let is_kept = !service.spec.configuration.is_empty();
        return (!is_kept).then(|| Change::Delete {
            kind: Kind::Service,
            key: key.clone(),
            resource_version: Some(service.metadata.resource_version.clone()),
        });
    }
    let wanted = ports(&endpoints);
    let known: BTreeSet<u16> = service.spec.ports.iter().map(|it| it.port).collect();
    if known == wanted {
        return None;
    }
    let mut service = Service::clone(service);
    service.spec.portless = wanted.is_empty();
    let old = std::mem::take(&mut service.spec.ports);
    let kept = old.into_iter().filter(|it| wanted.contains(&it.port));
    service.spec.ports = kept.collect();
    let added = wanted.difference(&known).map(|port| port_of(*port));
    service.spec.ports.extend(added);
    Some(put(service))
}

/// Whether a service was made for its endpoints.
#[must_use]
pub fn is_made(service: &Service) -> bool {
    service
        .metadata
        .annotations
        .contains_key(MADE_FOR_ENDPOINTS)
}

/// A service that is made for its endpoints, where there is none: who makes it at the same time is not overwritten.
#[must_use]
pub fn made(key: &ObjectKey, ports: BTreeSet<u16>, annotations: &[(&str, String)]) -> Service {
    let marks = annotations
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()));
    let made = (MADE_FOR_ENDPOINTS.to_owned(), "true".to_owned());
    Service {
        api_version: API_VERSION.to_owned(),
        kind: Kind::Service,
        metadata: Metadata {
            name: key.name.clone(),
            namespace: key.namespace.clone(),
            annotations: marks.chain([made]).collect(),
            resource_version: ABSENT.to_owned(),
            ..Metadata::default()
        },
        spec: ServiceSpec::new(ports.into_iter().map(port_of).collect()),
        status: ServiceStatus::default(),
    }
}

fn put(service: Service) -> Change {
    Change::Put(Manifest::Service(service.into()))
}

/// The distinct ports of endpoints, as many as a service may have.
fn ports(endpoints: &[&Endpoint]) -> BTreeSet<u16> {
    let ports: BTreeSet<u16> = endpoints.iter().filter_map(|it| it.spec.port).collect();
    ports.into_iter().take(MAX_PORTS).collect()
}

fn port_of(port: u16) -> Port {
    Port {
        name: format!("port-{port}"),
        port,
        protocol: Protocol::Auto,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::state::{Refusal, Store, decode};

    fn key() -> ObjectKey {
        ObjectKey::new("default", "shop")
    }

    fn endpoint(store: &Store, name: &str, fields: &Value) {
        let mut spec = json!({"service": "shop", "address": "10.0.0.3"});
        for (name, value) in fields.as_object().unwrap() {
            spec[name] = value.clone();
        }
        let document = json!({ "spec": spec });
        let key = ObjectKey::new("default", name);
        let manifest = decode::manifest(Kind::Endpoint, &key, document).unwrap();
        store.apply(Change::Put(manifest)).unwrap();
        step(store);
    }

    fn leave(store: &Store, name: &str) {
        let change = Change::Delete {
            kind: Kind::Endpoint,
            key: ObjectKey::new("default", name),
            resource_version: None,
        };
        store.apply(change).unwrap();
        step(store);
    }

    fn step(store: &Store) {
        if let Some(change) = follow(&store.snapshot(), &key(), &[("a/b", "c".to_owned())]) {
            store.apply(change).unwrap();
        }
        let again = follow(&store.snapshot(), &key(), &[]);
        assert!(again.is_none(), "{again:?}");
    }

    fn ports_of(store: &Store) -> Option<Vec<u16>> {
        let snapshot = store.snapshot();
        let service = snapshot.services.get(&key())?;
        Some(service.spec.ports.iter().map(|it| it.port).collect())
    }

    #[test]
    fn a_service_comes_with_the_first_and_goes_with_the_last_endpoint() {
        let store = Store::in_memory();
        endpoint(&store, "shop-1", &json!({"port": 8080}));
        assert_eq!(ports_of(&store), Some(vec![8080]));
        endpoint(&store, "shop-2", &json!({"port": 9090}));
        assert_eq!(ports_of(&store), Some(vec![8080, 9090]));
        let snapshot = store.snapshot();
        let service = &snapshot.services[&key()];
        assert_eq!(service.metadata.annotations.get("a/b").unwrap(), "c");
        let second = &snapshot.endpoints[&ObjectKey::new("default", "shop-2")];
        let reached: Vec<u16> = service
            .spec
            .ports
            .iter()
            .map(|it| second.spec.port_of(it))
            .collect();
        assert_eq!(reached, [9090, 9090], "each at its own port");
        leave(&store, "shop-1");
        assert_eq!(ports_of(&store), Some(vec![9090]));
        leave(&store, "shop-2");
        assert_eq!(ports_of(&store), None);
    }

    #[test]
    fn without_a_port_it_is_portless_until_one_has_a_port() {
        let store = Store::in_memory();
        endpoint(&store, "shop-1", &json!({}));
        assert_eq!(ports_of(&store), Some(vec![]));
        endpoint(&store, "shop-1", &json!({"port": 8080}));
        assert_eq!(ports_of(&store), Some(vec![8080]));
        assert_eq!(store.snapshot().services[&key()].status.addresses.len(), 2);
    }

    #[test]
    fn what_people_made_or_filled_stays() {
        let store = Store::in_memory();
        let document = json!({"spec": {"ports": [{"name": "web", "port": 80}]}});
        let manifest = decode::manifest(Kind::Service, &key(), document).unwrap();
        store.apply(Change::Put(manifest)).unwrap();
        endpoint(&store, "shop-1", &json!({"port": 8080}));
        leave(&store, "shop-1");
        assert_eq!(ports_of(&store), Some(vec![80]));
        let mut filled = made(&key(), BTreeSet::from([8080]), &[]);
        filled
            .spec
            .configuration
            .insert("a".to_owned(), "b".to_owned());
        let refused = store.apply(put(filled.clone())).unwrap_err();
        assert!(matches!(refused, Refusal::Conflict { .. }), "{refused}");
        filled.metadata.resource_version.clear();
        store.apply(put(filled)).unwrap();
        step(&store);
        assert_eq!(ports_of(&store), Some(vec![8080]));
    }
}

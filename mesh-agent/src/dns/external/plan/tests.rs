//! Endpoints for the addresses of names.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Answer, changes, wanted};
use crate::state::endpoint::Endpoint;
use crate::state::object::{ConditionStatus, Kind, ObjectKey};
use crate::state::{Change, Store, decode};

fn put(store: &Store, name: &str, spec: &Value) {
    let key = ObjectKey::new("shop", name);
    let document = json!({
        "apiVersion": "mesh.dev/v1alpha1", "kind": "Endpoint",
        "metadata": { "name": name, "namespace": "shop" }, "spec": spec,
    });
    let manifest = decode::manifest(Kind::Endpoint, &key, document).unwrap();
    store.apply(Change::Put(manifest)).unwrap();
}

pub(in crate::dns::external) fn pattern(store: &Store, hostname: &str, weight: u32) {
    let spec = json!({ "service": "pay", "hostname": hostname, "weight": weight });
    put(store, "pay", &spec);
}

fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|it| it.parse().unwrap()).collect()
}

/// Applies what follows from one answer to every name, and says how many writes it took.
pub(in crate::dns::external) fn follow(store: &Store, answer: Option<Answer<'_>>) -> usize {
    let changes = changes(&store.snapshot(), |_| answer);
    let count = changes.len();
    for change in changes {
        store.apply(change).unwrap();
    }
    count
}

/// The addresses of endpoints that have one, with their names.
fn endpoints(store: &Store) -> Vec<(String, String)> {
    let snapshot = store.snapshot();
    let all = snapshot.endpoints.values();
    all.filter(|it| it.spec.hostname.is_none())
        .map(|it| (it.metadata.name.clone(), it.spec.address.to_string()))
        .collect()
}

/// The names of those that take new connections.
fn offered(store: &Store) -> Vec<String> {
    let snapshot = store.snapshot();
    let all = snapshot.endpoints.values();
    all.filter(|it| it.is_offered())
        .map(|it| it.metadata.name.clone())
        .collect()
}

fn get(store: &Store, name: &str) -> Endpoint {
    Endpoint::clone(&store.snapshot().endpoints[&ObjectKey::new("shop", name)])
}

fn resolved(store: &Store) -> (ConditionStatus, String, String) {
    let pattern = get(store, "pay");
    let mut conditions = pattern.status.conditions.into_iter();
    let it = conditions.find(|it| it.kind == "Resolved").unwrap();
    (it.status, it.reason, it.message)
}

#[test]
fn every_address_of_a_name_has_an_endpoint_like_the_pattern() {
    let store = Store::in_memory();
    pattern(&store, "api.example.com", 7);
    assert_eq!(
        wanted(&store.snapshot()).into_values().collect::<Vec<_>>(),
        ["api.example.com"]
    );
    assert_eq!(follow(&store, None), 0, "nothing is known yet");
    let found = addresses(&["192.0.2.1", "2001:db8::1"]);
    assert_eq!(follow(&store, Some(Ok(&found))), 3);
    let expected = [
        ("pay.192-0-2-1", "192.0.2.1"),
        ("pay.2001-db8-0-0-0-0-0-1", "2001:db8::1"),
    ];
    let expected = expected.map(|(name, address)| (name.to_owned(), address.to_owned()));
    assert_eq!(endpoints(&store), expected);
    assert_eq!(get(&store, "pay.192-0-2-1").spec.weight, 7);
    let message = "192.0.2.1, 2001:db8::1".to_owned();
    let expected = (ConditionStatus::True, "Resolved".to_owned(), message);
    assert_eq!(resolved(&store), expected);
    assert_eq!(follow(&store, Some(Ok(&found))), 0, "nothing is new");
}

#[test]
fn endpoints_follow_the_name_and_their_pattern() {
    let store = Store::in_memory();
    pattern(&store, "api.example.com", 1);
    follow(&store, Some(Ok(&addresses(&["192.0.2.1", "192.0.2.2"]))));
    follow(&store, Some(Ok(&addresses(&["192.0.2.2", "192.0.2.3"]))));
    assert_eq!(offered(&store), ["pay.192-0-2-2", "pay.192-0-2-3"]);
    pattern(&store, "api.example.com", 3);
    follow(&store, Some(Err(("ResolverFailed", "no answer"))));
    assert_eq!(get(&store, "pay.192-0-2-2").spec.weight, 3);
    let delete = Change::Delete {
        kind: Kind::Endpoint,
        key: ObjectKey::new("shop", "pay"),
        resource_version: None,
    };
    store.apply(delete).unwrap();
    follow(&store, None);
    assert_eq!(endpoints(&store), []);
}

#[test]
fn the_last_good_answer_stays_for_the_name_that_it_was_for() {
    let store = Store::in_memory();
    pattern(&store, "api.example.com", 1);
    follow(&store, Some(Ok(&addresses(&["192.0.2.1"]))));
    follow(&store, Some(Err(("NameNotFound", "there is no name"))));
    assert_eq!(endpoints(&store).len(), 1);
    let (status, reason, message) = resolved(&store);
    assert_eq!(status, ConditionStatus::False);
    assert_eq!(
        (&reason[..], &message[..]),
        ("NameNotFound", "there is no name")
    );
    pattern(&store, "other.example.com", 1);
    follow(&store, None);
    assert_eq!(endpoints(&store), []);
}

#[test]
fn address_that_left_the_answer_keeps_its_connections_until_it_comes_back_or_the_name_goes() {
    let store = Store::in_memory();
    pattern(&store, "api.example.com", 1);
    let (first, second) = (addresses(&["192.0.2.1"]), addresses(&["192.0.2.2"]));
    follow(&store, Some(Ok(&first)));
    follow(&store, Some(Ok(&second)));
    let left = get(&store, "pay.192-0-2-1");
    assert!(left.has_left_name() && !left.is_offered(), "{left:?}");
    assert_eq!(follow(&store, Some(Ok(&second))), 0, "nothing is new");
    assert!(plan_knows(&store, &second), "what left is known no more");
    follow(&store, Some(Err(("ResolverFailed", "no answer"))));
    assert_eq!(offered(&store), ["pay.192-0-2-2"]);

    follow(&store, Some(Ok(&first)));
    assert_eq!(offered(&store), ["pay.192-0-2-1"]);
    assert!(!get(&store, "pay.192-0-2-1").has_left_name());
    assert!(get(&store, "pay.192-0-2-2").has_left_name());

    pattern(&store, "other.example.com", 1);
    follow(&store, None);
    assert_eq!(endpoints(&store), []);
}

fn plan_knows(store: &Store, addresses: &BTreeSet<IpAddr>) -> bool {
    super::known(&store.snapshot(), "api.example.com", true) == *addresses
}

#[test]
fn few_that_left_are_kept_and_those_with_connections_first() {
    let store = Store::in_memory();
    pattern(&store, "api.example.com", 1);
    let block = |third: u8| -> BTreeSet<IpAddr> {
        (0..=255)
            .map(|last| IpAddr::from([10, 0, third, last]))
            .collect()
    };
    for third in (0..6).rev() {
        follow(&store, Some(Ok(&block(third))));
    }
    let left = endpoints(&store).len() - 256;
    assert_eq!(left, super::MAX_LEFT);
    assert!(get(&store, "pay.10-0-5-0").has_left_name());
    let last = ObjectKey::new("shop", "pay.10-0-1-0");
    assert!(!store.snapshot().endpoints.contains_key(&last));
}

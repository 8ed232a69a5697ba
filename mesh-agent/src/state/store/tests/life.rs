//! The life of a service: what checks show, whether it is up, what it remembers.

use super::*;
use crate::state::check::OBSERVED;
use crate::state::endpoint::{Health, HealthStatus};
use crate::state::life::{Standing, View};

fn endpoint(store: &Store) -> Arc<Endpoint> {
    Arc::clone(&store.snapshot().endpoints[&key("web-1")])
}

fn view(store: &Store) -> View {
    let snapshot = store.snapshot();
    let availability = snapshot.services[&key("web")].status.availability.clone();
    availability.expect("it is known").view
}

fn put_checked(store: &Store) {
    let checks = json!([{"id": "alive", "ttl": "10s", "name": "Alive"}]);
    let spec = json!({"service": "web", "address": "10.0.0.3", "checks": checks});
    put(store, Kind::Endpoint, "web-1", &spec);
}

fn check(store: &Store, id: &str, status: HealthStatus, output: &str) -> Applied {
    let change = Change::Check {
        endpoint: key("web-1"),
        id: id.to_owned(),
        status,
        output: output.to_owned(),
    };
    store.apply(change).expect("it is accepted")
}

#[test]
fn a_service_is_up_while_an_endpoint_of_it_serves() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    assert_eq!(view(&store), View::Down);
    put_checked(&store);
    assert_eq!(view(&store), View::Down, "nothing is known of it yet");
    check(&store, "alive", HealthStatus::Warning, "slow");
    assert_eq!(view(&store), View::Up);
    let maintenance = json!({"service": "web", "address": "10.0.0.3", "maintenance": {}});
    put(&store, Kind::Endpoint, "web-1", &maintenance);
    assert_eq!(view(&store), View::Down);
    put_endpoint(&store, "web-2", &json!({}));
    assert_eq!(view(&store), View::Up);
    let change = Change::Delete {
        kind: Kind::Endpoint,
        key: key("web-2"),
        resource_version: None,
    };
    store.apply(change).expect("it is there");
    assert_eq!(view(&store), View::Down);
    let elsewhere = json!({"service": "db", "address": "10.0.0.3"});
    put(&store, Kind::Endpoint, "web-1", &elsewhere);
    put_endpoint(&store, "web-1", &json!({}));
    assert_eq!(view(&store), View::Up, "it came from another service");
}

#[test]
fn a_service_that_comes_after_its_endpoints_is_up_at_once() {
    let store = Store::in_memory();
    put_endpoint(&store, "web-1", &json!({}));
    put_service(&store, "web", &[("http", 80, "http")]);
    assert_eq!(view(&store), View::Up);
    let snapshot = store.snapshot();
    let status = &snapshot.services[&key("web")].status;
    assert!(!status.availability.as_ref().unwrap().since.is_empty());
}

#[test]
fn the_same_word_twice_is_no_write_and_an_unknown_check_is_ignored() {
    let store = Store::in_memory();
    put_checked(&store);
    check(&store, "alive", HealthStatus::Passing, "fine");
    let revision = store.snapshot().revision;
    let again = check(&store, "alive", HealthStatus::Passing, "fine");
    assert_eq!(again, Applied::Unchanged);
    let unknown = check(&store, "other", HealthStatus::Critical, "");
    assert_eq!(unknown, Applied::Unchanged);
    assert_eq!(store.snapshot().revision, revision);
    check(&store, "alive", HealthStatus::Passing, &"x".repeat(9000));
    let endpoint = endpoint(&store);
    assert_eq!(endpoint.status.checks[0].output.len(), 4096);
}

#[test]
fn what_was_seen_and_what_was_said_are_both_kept() {
    let store = Store::in_memory();
    put_checked(&store);
    check(&store, "alive", HealthStatus::Passing, "fine");
    let seen = |status: Option<HealthStatus>| {
        let health = status.map(|status| Health {
            status,
            since: String::new(),
            output: "seen".to_owned(),
        });
        let change = Change::Health {
            key: key("web-1"),
            health,
        };
        store.apply(change).expect("it is accepted");
        let endpoint = endpoint(&store);
        let mut checks = endpoint.status.checks.iter();
        let is_seen = checks.any(|it| it.id == OBSERVED);
        (is_seen, endpoint.status.standing().unwrap())
    };
    assert_eq!(
        seen(Some(HealthStatus::Critical)),
        (true, Standing::Critical)
    );
    put_checked(&store);
    assert_eq!(
        endpoint(&store).status.standing(),
        Some(Standing::Critical),
        "a write of the object leaves both alone"
    );
    assert_eq!(seen(None), (false, Standing::Ready));
}

#[test]
fn the_last_version_of_an_endpoint_says_that_it_is_gone() {
    let store = Store::in_memory();
    put_checked(&store);
    let change = Change::Delete {
        kind: Kind::Endpoint,
        key: key("web-1"),
        resource_version: None,
    };
    let Ok(Applied::Deleted(Manifest::Endpoint(last))) = store.apply(change) else {
        panic!("it is there");
    };
    assert_eq!(last.status.standing(), Some(Standing::Gone));
}

#[test]
fn a_setting_knows_the_writes_that_made_it() {
    let store = Store::in_memory();
    let settings = |settings: Value| {
        let spec = json!({"ports": [{"name": "http", "port": 80}], "configuration": settings});
        put(&store, Kind::Service, "web", &spec);
        let snapshot = store.snapshot();
        let known = &snapshot.services[&key("web")].status.configuration;
        let known = known
            .iter()
            .map(|(key, it)| (key.clone(), it.created, it.modified));
        known.collect::<Vec<_>>()
    };
    assert_eq!(settings(json!({"a": "1"})), [("a".to_owned(), 1, 1)]);
    let both = [("a".to_owned(), 1, 1), ("b".to_owned(), 2, 2)];
    assert_eq!(settings(json!({"a": "1", "b": "1"})), both);
    let changed = [("a".to_owned(), 1, 3), ("b".to_owned(), 2, 2)];
    assert_eq!(settings(json!({"a": "2", "b": "1"})), changed);
    assert_eq!(settings(json!({"b": "1"})), [("b".to_owned(), 2, 2)]);
}

#[test]
fn updated_at_moves_with_what_people_write_only() {
    let store = Store::in_memory().with_clock(|| "2026-01-02T03:04:05Z".parse().unwrap());
    put_checked(&store);
    let store = store.with_clock(|| "2026-01-02T03:05:00Z".parse().unwrap());
    check(&store, "alive", HealthStatus::Passing, "fine");
    let metadata = endpoint(&store).metadata.clone();
    assert_eq!(metadata.created_at, "2026-01-02T03:04:05Z");
    assert_eq!(metadata.updated_at, "2026-01-02T03:04:05Z");
    put_endpoint(&store, "web-1", &json!({}));
    let metadata = endpoint(&store).metadata.clone();
    assert_eq!(metadata.created_at, "2026-01-02T03:04:05Z");
    assert_eq!(metadata.updated_at, "2026-01-02T03:05:00Z");
}

#[test]
fn a_portless_service_has_no_address() {
    let store = Store::in_memory();
    let spec = json!({"ports": [], "portless": true});
    put(&store, Kind::Service, "list", &spec);
    let snapshot = store.snapshot();
    assert!(snapshot.services[&key("list")].status.addresses.is_empty());
}

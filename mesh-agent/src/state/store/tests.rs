//! What a change does, and what it leaves alone.

mod attached;
mod disk;
mod effect;
mod life;
mod random;
mod source;

use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::state::change::NoticeKind;
use crate::state::decode;
use crate::state::id::Subject;
use crate::state::object::ConditionStatus;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn read(kind: Kind, name: &str, spec: &Value) -> Manifest {
    decode::manifest(kind, &key(name), json!({ "spec": spec })).expect("it can be decoded")
}

fn put(store: &Store, kind: Kind, name: &str, spec: &Value) -> Applied {
    let change = Change::Put(read(kind, name, spec));
    store.apply(change).expect("it is accepted")
}

fn put_service(store: &Store, name: &str, ports: &[(&str, u16, &str)]) -> Applied {
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}))
        .collect();
    put(store, Kind::Service, name, &json!({ "ports": ports }))
}

fn put_endpoint(store: &Store, name: &str, ports: &Value) -> Applied {
    let spec = json!({"service": "web", "address": "10.0.0.3", "ports": ports});
    put(store, Kind::Endpoint, name, &spec)
}

fn put_policy(store: &Store, name: &str, target: &str) -> Applied {
    let rules = json!([{"from": [{"namespaces": ["far"], "serviceAccounts": ["app"]}]}]);
    let spec = json!({"target": {"kind": target, "name": "web"}, "action": "Deny", "rules": rules});
    put(store, Kind::AuthorizationPolicy, name, &spec)
}

fn delete_service(store: &Store, name: &str) {
    let change = Change::Delete {
        kind: Kind::Service,
        key: key(name),
        resource_version: None,
    };
    store.apply(change).expect("it is there");
}

/// The reason of a condition of an object, with `!` before it where it does not hold.
fn reason(store: &Store, kind: Kind, name: &str, condition: &str) -> String {
    let object = store.snapshot().object(kind, &key(name)).unwrap();
    let found = object
        .conditions()
        .iter()
        .find(|it| it.kind == condition)
        .unwrap();
    match found.status {
        ConditionStatus::True => found.reason.clone(),
        _ => format!("!{}", found.reason),
    }
}

#[test]
fn write_counts_versions_and_stamps_what_the_agent_owns() {
    let clock = || "2026-01-02T03:04:05.678Z".parse().unwrap();
    let store = Store::in_memory().with_clock(clock);
    let Applied::Created(first) = put_service(&store, "web", &[("http", 80, "http")]) else {
        panic!("it is new");
    };
    assert_eq!(first.metadata().creation_timestamp, "2026-01-02T03:04:05Z");
    assert_eq!(first.metadata().generation, 1);
    assert_eq!(first.metadata().resource_version, "1");
    assert_eq!(first.metadata().uid.len(), 36);

    let again = put_service(&store, "web", &[("http", 80, "http")]);
    assert_eq!(again, Applied::Changed(first.clone()), "no write");
    assert_eq!(store.snapshot().revision, 1);

    let Applied::Changed(second) = put_service(&store, "web", &[("http", 81, "http")]) else {
        panic!("it was there");
    };
    assert_eq!(second.metadata().generation, 2);
    assert_eq!(second.metadata().resource_version, "2");
    assert_eq!(second.metadata().uid, first.metadata().uid);
}

#[test]
fn refused_change_touches_nothing_and_tells_nobody() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    let before = store.snapshot();
    let mut notices = store.subscribe();

    let invalid = read(Kind::Service, "new", &json!({"ports": []}));
    let refused = store.apply(Change::Put(invalid)).unwrap_err();
    assert!(matches!(refused, Refusal::Invalid { .. }), "{refused:?}");
    let stale = Change::Delete {
        kind: Kind::Service,
        key: key("web"),
        resource_version: Some("7".to_owned()),
    };
    let refused = store.apply(stale).unwrap_err();
    assert!(matches!(refused, Refusal::Conflict { .. }), "{refused:?}");
    let absent = Change::Delete {
        kind: Kind::Workload,
        key: key("web"),
        resource_version: None,
    };
    let refused = store.apply(absent).unwrap_err();
    assert!(matches!(refused, Refusal::NotFound { .. }), "{refused:?}");

    assert!(Arc::ptr_eq(&before, &store.snapshot()));
    assert!(notices.try_recv().is_err());
}

#[test]
fn endpoints_and_policies_follow_their_service() {
    let store = Store::in_memory();
    put_endpoint(&store, "web-1", &json!({"http": 8080}));
    put_policy(&store, "guard", "Service");
    let endpoint = || reason(&store, Kind::Endpoint, "web-1", "ResolvedRefs");
    let policy = || reason(&store, Kind::AuthorizationPolicy, "guard", "ResolvedRefs");
    assert_eq!(endpoint(), "!ServiceNotFound");
    assert_eq!(policy(), "!TargetNotFound");
    let mut notices = store.subscribe();

    put_service(&store, "web", &[("other", 80, "tcp")]);
    assert_eq!(endpoint(), "!PortNotFound");
    assert_eq!(policy(), "ResolvedRefs");
    put_service(&store, "web", &[("http", 80, "tcp")]);
    assert_eq!(endpoint(), "ResolvedRefs");
    delete_service(&store, "web");
    assert_eq!(endpoint(), "!ServiceNotFound");
    assert_eq!(policy(), "!TargetNotFound");

    let mut told = Vec::new();
    while let Ok(notice) = notices.try_recv() {
        assert_eq!(notice.revision, 3 + told.len() as u64, "none is lost");
        assert_eq!(
            notice.object.metadata().resource_version,
            notice.revision.to_string()
        );
        told.push((notice.event, notice.object.kind()));
    }
    let modified = |kind| (NoticeKind::Modified, kind);
    let expected = [
        (NoticeKind::Added, Kind::Service),
        modified(Kind::Endpoint),
        modified(Kind::AuthorizationPolicy),
        modified(Kind::Service),
        modified(Kind::Endpoint),
        (NoticeKind::Deleted, Kind::Service),
        modified(Kind::Endpoint),
        modified(Kind::AuthorizationPolicy),
    ];
    assert_eq!(told, expected);
}

#[test]
fn policy_of_a_workload_follows_it() {
    let store = Store::in_memory();
    put_policy(&store, "guard", "Workload");
    put_service(&store, "web", &[("http", 80, "tcp")]);
    let policy = || reason(&store, Kind::AuthorizationPolicy, "guard", "ResolvedRefs");
    assert_eq!(policy(), "!TargetNotFound", "a service is no workload");

    put(
        &store,
        Kind::Workload,
        "web",
        &json!({"netns": "/run/netns/a"}),
    );

    assert_eq!(policy(), "ResolvedRefs");
}

#[test]
fn policy_that_cannot_match_says_so() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    let told = |action: &str, rules: Value| {
        let target = json!({"kind": "Service", "name": "web"});
        let spec = json!({"target": target, "action": action, "rules": rules});
        put(&store, Kind::AuthorizationPolicy, "guard", &spec);
        ["Accepted", "ResolvedRefs"]
            .map(|condition| reason(&store, Kind::AuthorizationPolicy, "guard", condition))
    };
    let ports = json!([{"to": [{"ports": [80, 81]}]}]);
    assert_eq!(told("Allow", json!([])), ["Accepted", "ResolvedRefs"]);
    assert_eq!(told("Deny", json!([])), ["!NoEffect", "ResolvedRefs"]);
    assert_eq!(told("Deny", ports), ["Accepted", "!PortNotFound"]);
    put_service(&store, "web", &[("http", 80, "http"), ("more", 81, "http")]);
    let policy = || reason(&store, Kind::AuthorizationPolicy, "guard", "ResolvedRefs");
    assert_eq!(policy(), "ResolvedRefs");
}

#[test]
fn service_with_a_udp_port_is_wholly_programmed() {
    let store = Store::in_memory();
    put_service(&store, "dns", &[("dns", 53, "udp"), ("tcp", 53, "tcp")]);
    let programmed = reason(&store, Kind::Service, "dns", "Programmed");
    assert_eq!(programmed, "Programmed");
}

#[test]
fn condition_of_the_agent_stays_when_the_spec_changes() {
    let store = Store::in_memory();
    put(
        &store,
        Kind::Workload,
        "web",
        &json!({"netns": "/run/netns/a"}),
    );
    let enrolled = || Change::Condition {
        kind: Kind::Workload,
        key: key("web"),
        condition: Condition {
            kind: "Enrolled".to_owned(),
            status: ConditionStatus::True,
            reason: "Enrolled".to_owned(),
            message: String::new(),
            observed_generation: 1,
        },
    };
    let applied = store.apply(enrolled()).unwrap();
    assert!(matches!(applied, Applied::Changed(_)));
    assert_eq!(store.apply(enrolled()).unwrap(), Applied::Unchanged);
    assert_eq!(store.snapshot().revision, 2);

    let spec = json!({"netns": "/run/netns/a", "failMode": "closed"});
    put(&store, Kind::Workload, "web", &spec);

    assert_eq!(
        reason(&store, Kind::Workload, "web", "Enrolled"),
        "Enrolled"
    );
    let Change::Condition { condition, .. } = enrolled() else {
        unreachable!()
    };
    let gone = Change::Condition {
        kind: Kind::Service,
        key: key("web"),
        condition,
    };
    assert_eq!(store.apply(gone).unwrap(), Applied::Unchanged);
}

#[test]
fn service_without_addresses_gets_lasting_ones() {
    let store = Store::in_memory();
    let addresses = |name: &str| {
        let snapshot = store.snapshot();
        snapshot.services[&key(name)].status.addresses.clone()
    };
    put_service(&store, "web", &[("http", 80, "http")]);
    let first = addresses("web");
    assert!(first[0].is_ipv4() && first[1].is_ipv6(), "{first:?}");
    put_service(&store, "web", &[("http", 81, "http")]);
    assert_eq!(addresses("web"), first);

    let ports = json!([{"name": "http", "port": 80}]);
    let given = json!({"ports": ports, "addresses": [first[0]]});
    let refused = store.apply(Change::Put(read(Kind::Service, "db", &given)));
    assert!(matches!(refused, Err(Refusal::Invalid { .. })));
    let given = json!({"ports": ports, "addresses": ["10.9.9.9"]});
    put(&store, Kind::Service, "web", &given);
    assert_eq!(addresses("web"), ["10.9.9.9".parse::<IpAddr>().unwrap()]);
    put(&store, Kind::Service, "web", &json!({ "ports": ports }));
    assert_eq!(addresses("web"), first, "the same as before");
}

#[test]
fn exhausted_range_refuses_the_next_service() {
    let store = Store::in_memory_with(Config {
        virtual_ranges: vec!["10.9.0.0/30".parse().unwrap()],
    });
    let service = |name| {
        read(
            Kind::Service,
            name,
            &json!({"ports": [{"name": "a", "port": 1}]}),
        )
    };
    assert!(store.apply(Change::Put(service("a"))).is_ok());
    assert!(store.apply(Change::Put(service("b"))).is_ok());

    let refused = store.apply(Change::Put(service("c"))).unwrap_err();

    let Refusal::Invalid { field, .. } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(field, "spec.addresses");
    assert_eq!(store.snapshot().services.len(), 2);
}

#[test]
fn numbers_follow_the_objects_and_are_never_given_again() {
    let store = Store::in_memory();
    let number = |subject: Subject| store.snapshot().ids.number(&subject);
    let endpoint_port = |name: &str| Subject::Endpoint(key("web-1"), name.to_owned());
    put_endpoint(&store, "web-1", &json!({}));
    assert_eq!(number(endpoint_port("http")), 0, "no service, no port");
    put_service(
        &store,
        "web",
        &[("http", 80, "http"), ("admin", 81, "http")],
    );
    let http = number(endpoint_port("http"));
    assert_ne!(http, 0);
    assert_ne!(number(endpoint_port("admin")), 0);
    let service = number(Subject::Service(key("web")));

    put_service(&store, "web", &[("http", 8080, "tcp")]);
    assert_eq!(number(endpoint_port("http")), http, "the name is the same");
    assert_eq!(number(endpoint_port("admin")), 0);
    assert_eq!(number(Subject::Port(key("web"), "admin".to_owned())), 0);
    put_policy(&store, "guard", "Service");
    assert_ne!(number(Subject::Namespace("far".to_owned())), 0);
    assert_ne!(number(Subject::ServiceAccount("app".to_owned())), 0);

    let last = store.snapshot().ids.last();
    delete_service(&store, "web");
    assert_eq!(number(endpoint_port("http")), 0);
    assert_eq!(number(Subject::Service(key("web"))), 0);
    put_service(&store, "web", &[("http", 80, "http")]);
    assert!(number(Subject::Service(key("web"))) > last.max(service));
}

#[test]
fn follower_misses_nothing_it_may_ask_for() {
    let store = Store::in_memory();
    let label = |it: u16| put_service(&store, "web", &[("http", it, "http")]);
    for write in 1..=5 {
        label(write);
    }
    let followed = store.follow(Some(3)).unwrap();
    let missed: Vec<u64> = followed.missed.iter().map(|it| it.revision).collect();
    assert_eq!(missed, [4, 5]);
    assert_eq!(followed.snapshot.revision, 5);
    assert!(store.follow(Some(6)).is_none(), "not written yet");
    assert!(store.follow(None).unwrap().missed.is_empty());

    for write in 0..1024 {
        label(100 + write);
    }

    assert!(store.follow(Some(4)).is_none(), "forgotten");
    assert_eq!(store.follow(Some(5)).unwrap().missed.len(), 1024);
}

#[test]
fn health_is_written_when_it_changes_and_counts_from_when_its_word_did() {
    use crate::state::endpoint::{Health, HealthStatus};
    use std::sync::atomic::{AtomicI64, Ordering};
    static NOW: AtomicI64 = AtomicI64::new(0);
    let clock = || Timestamp::from_second(NOW.fetch_add(60, Ordering::Relaxed)).unwrap();
    let store = Store::in_memory().with_clock(clock);
    put_endpoint(&store, "web-1", &json!({}));
    let set = |health: Option<(HealthStatus, &str)>| {
        let health = health.map(|(status, output)| Health {
            status,
            since: String::new(),
            output: output.to_owned(),
        });
        let key = key("web-1");
        store.apply(Change::Health { key, health }).unwrap()
    };
    let since = || {
        let endpoint = Arc::clone(&store.snapshot().endpoints[&key("web-1")]);
        endpoint.status.health.clone().map(|it| it.since)
    };
    assert_eq!(set(None), Applied::Unchanged);
    set(Some((HealthStatus::Passing, "200")));
    let first = since();
    assert_eq!(
        set(Some((HealthStatus::Passing, "200"))),
        Applied::Unchanged
    );
    set(Some((HealthStatus::Passing, "204")));
    assert_eq!(since(), first);
    set(Some((HealthStatus::Critical, "refused")));
    assert_ne!(since(), first);

    put(
        &store,
        Kind::Endpoint,
        "web-1",
        &json!({"service": "web", "address": "10.0.0.4"}),
    );
    assert!(
        since().is_some(),
        "a change of the spec keeps what was seen"
    );
    set(None);
    assert_eq!(since(), None);
    let gone = Change::Health {
        key: key("web-2"),
        health: None,
    };
    assert_eq!(store.apply(gone), Ok(Applied::Unchanged));
}

#[test]
fn version_that_another_registry_gave_is_no_conflict() {
    let store = Store::in_memory();
    let put = |uid: &str, version: &str, weight: u32| {
        let backend = json!({"name": "web", "port": 80, "weight": weight});
        let document = json!({
            "metadata": {"uid": uid, "resourceVersion": version},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [{"backendRefs": [backend]}]},
        });
        let manifest = decode::manifest(Kind::HttpRoute, &key("web"), document).unwrap();
        store.apply(Change::Put(manifest))
    };
    let foreign = "0a1b2c3d-0000-4000-8000-000000000000";
    let Ok(Applied::Created(made)) = put(foreign, "99", 1) else {
        panic!("it is new");
    };
    let ours = made.metadata();
    assert_ne!(ours.uid, foreign);
    assert!(put(foreign, "99", 2).is_ok());
    let refused = put(&ours.uid, &ours.resource_version, 3).unwrap_err();
    assert!(matches!(refused, Refusal::Conflict { .. }), "{refused:?}");
}

#[test]
fn many_changes_are_made_at_once_and_a_bad_one_hurts_no_other() {
    let store = Store::in_memory();
    let ports = json!({"ports": [{"name": "http", "port": 80, "protocol": "http"}]});
    let services = ["a", "b", "c"].map(|name| Change::Put(read(Kind::Service, name, &ports)));
    let bad = Change::Put(read(Kind::Service, "bad", &json!({"ports": []})));
    let gone = Change::Delete {
        kind: Kind::Service,
        key: key("a"),
        resource_version: None,
    };
    let mut notices = store.subscribe();
    let [a, b, c] = services;
    let results = store.apply_all([a, bad, b, gone, c].map(|it| (Source::Api.into(), it)));
    let results: Vec<_> = results.iter().map(Result::is_ok).collect();
    assert_eq!(results, [true, false, true, true, true]);
    let snapshot = store.snapshot();
    let names: Vec<_> = snapshot
        .services
        .keys()
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(names, ["b", "c"]);
    let told: Vec<_> = std::iter::from_fn(|| notices.try_recv().ok()).collect();
    let told: Vec<_> = told
        .iter()
        .map(|it| (it.revision, it.object.key().name))
        .collect();
    let expected = [(1, "a"), (2, "b"), (3, "a"), (4, "c")];
    assert_eq!(
        told,
        expected.map(|(revision, name)| (revision, name.to_owned()))
    );
    assert_eq!(snapshot.revision, 4);
}

#[test]
fn ten_thousand_routes_are_taken_at_once() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    let spec = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    let routes = (0..10_000).map(|it| read(Kind::HttpRoute, &format!("r{it:05}"), &spec));
    let before = store.snapshot();
    let results = store.apply_all(routes.map(|it| (Source::Api.into(), Change::Put(it))));
    assert!(results.iter().all(Result::is_ok));
    let after = store.snapshot();
    assert_eq!(after.count(Kind::HttpRoute), 10_000);
    // What was not touched is shared with the view before.
    assert!(before.services.ptr_eq(&after.services));
    assert_eq!(
        reason(&store, Kind::HttpRoute, "r09999", "Accepted"),
        "Accepted"
    );
}

//! Whose an object is, and who may change it.

use super::*;
use crate::state::object::Metadata;

fn change(name: &str, port: u16) -> Change {
    let spec = json!({"ports": [{"name": "http", "port": port}]});
    Change::Put(read(Kind::Service, name, &spec))
}

fn removal(name: &str) -> Change {
    Change::Delete {
        kind: Kind::Service,
        key: key(name),
        resource_version: None,
    }
}

fn metadata(store: &Store) -> Metadata {
    store.snapshot().services[&key("web")].metadata.clone()
}

fn conflict(store: &Store) -> Option<String> {
    let web = Arc::clone(&store.snapshot().services[&key("web")]);
    let found = web
        .status
        .conditions
        .iter()
        .find(|it| it.kind == "Conflicted");
    found.map(|it| it.reason.clone())
}

fn file(place: &str) -> Origin {
    Origin {
        source: Source::Files,
        place: place.to_owned(),
    }
}

#[test]
fn object_belongs_to_the_source_that_wrote_it() {
    let store = Store::in_memory();
    store.apply(change("web", 80)).unwrap();
    assert_eq!(metadata(&store).source, Source::Api);

    store.apply_from(file("a.yaml"), change("web", 80)).unwrap();

    let taken = metadata(&store);
    assert_eq!(
        (taken.source, taken.origin.as_str()),
        (Source::Files, "a.yaml")
    );
    assert_eq!(taken.generation, 1, "the spec is the same");
    assert_eq!(conflict(&store).as_deref(), Some("TakenOver"));
    store.apply_from(file("a.yaml"), change("web", 81)).unwrap();
    assert_eq!(conflict(&store), None, "it was said");
}

#[test]
fn weaker_source_is_refused_and_remembered_until_it_lets_go() {
    let store = Store::in_memory();
    store.apply_from(file("a.yaml"), change("web", 80)).unwrap();

    let refused = store
        .apply_from(Source::Etcd, change("web", 81))
        .unwrap_err();

    let owner = Source::Files;
    assert!(matches!(refused, Refusal::Owned { owner: it, .. } if it == owner));
    assert_eq!(
        store.snapshot().services[&key("web")].spec.ports[0].port,
        80
    );
    assert_eq!(conflict(&store).as_deref(), Some("AlsoElsewhere"));
    let revision = store.snapshot().revision;
    drop(store.apply_from(Source::Etcd, change("web", 82)));
    assert_eq!(store.snapshot().revision, revision, "it says so already");

    let let_go = store.apply_from(Source::Etcd, removal("web")).unwrap();

    assert_eq!(let_go, Applied::Unchanged);
    assert_eq!(conflict(&store), None);
    assert_eq!(metadata(&store).source, Source::Files);
}

#[test]
fn api_neither_changes_nor_deletes_what_is_in_files() {
    let store = Store::in_memory();
    store.apply_from(file("a.yaml"), change("web", 80)).unwrap();
    let before = store.snapshot();

    for change in [change("web", 81), removal("web")] {
        let refused = store.apply(change).unwrap_err().to_string();
        assert!(refused.contains("belongs to the source files"), "{refused}");
    }

    assert!(
        Arc::ptr_eq(&before, &store.snapshot()),
        "nothing is touched"
    );
    store.apply_from(Source::Files, removal("web")).unwrap();
    assert_eq!(store.snapshot().services.len(), 0);
}

#[test]
fn source_that_is_gone_gives_its_objects_to_the_api() {
    let store = Store::in_memory();
    store.apply(change("api", 80)).unwrap();
    store.apply_from(file("a.yaml"), change("web", 80)).unwrap();

    assert_eq!(store.release(Source::Files), Ok(1));

    let released = metadata(&store);
    assert_eq!(
        (released.source, released.origin.as_str()),
        (Source::Api, "")
    );
    assert_eq!(store.release(Source::Files), Ok(0));
    store.apply(removal("web")).unwrap();
}

#[test]
fn of_many_changes_each_is_made_or_refused_alone() {
    let store = Store::in_memory();
    let origin = Origin::from(Source::Etcd);
    let wrong = Change::Put(read(Kind::Service, "bad", &json!({"ports": []})));

    let changes = [change("a", 80), wrong, change("b", 80)];
    let results = store.apply_all(changes.map(|it| (origin.clone(), it)));

    let is_made: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(is_made, [true, false, true]);
    assert_eq!(store.snapshot().services.len(), 2);
    assert_eq!(store.snapshot().revision, 2, "a version for each");
}

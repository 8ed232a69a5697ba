//! A folder on a disk, as editors, packages and Kubernetes change it.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::state::object::{Kind, ObjectKey};

struct Bench {
    directory: tempfile::TempDir,
    folder: Folder,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Store::in_memory());
        let folder = Folder::new(directory.path().into(), store, Board::default());
        Self { directory, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("it is written");
    }

    /// Looks until a change is in force.
    fn look(&mut self) {
        self.folder.look();
        self.folder.look();
    }

    /// The services that are there, with their port.
    fn services(&self) -> Vec<String> {
        let snapshot = self.folder.store.snapshot();
        let services = snapshot.services.values();
        services
            .map(|it| {
                let port = it.spec.ports.first().map(|port| port.port);
                format!("{}:{}", it.metadata.name, port.unwrap_or_default())
            })
            .collect()
    }

    fn report(&self) -> SourceReport {
        self.folder.board.read().pop().expect("a report")
    }
}

fn service(name: &str, port: u16) -> String {
    let spec = format!("{{ports: [{{name: http, port: {port}}}]}}");
    format!("kind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn files_come_change_and_go() {
    let mut bench = Bench::new();
    bench.write(
        "a.yaml",
        &format!("{}---\n{}", service("a", 1), service("b", 2)),
    );
    bench.write("ignored.txt", &service("no", 1));
    bench.write("D.YAML", &service("d", 4));
    bench.write(".hidden.yaml", &service("no", 1));
    bench.folder.first_look();
    assert_eq!(
        bench.services(),
        ["a:1", "b:2", "d:4"],
        "there from the start"
    );

    bench.write("c.json", r#"{"kind": "Service", "metadata": {"name": "c"}, "spec": {"ports": [{"name": "x", "port": 3}]}}"#);
    bench.write("a.yaml", &service("a", 10));
    bench.folder.look();
    assert_eq!(
        bench.services(),
        ["a:1", "b:2", "d:4"],
        "still being written"
    );
    bench.folder.look();
    assert_eq!(bench.services(), ["a:10", "c:3", "d:4"]);

    fs::remove_file(bench.path("c.json")).expect("it is there");
    bench.look();
    assert_eq!(bench.services(), ["a:10", "d:4"]);
    assert_eq!(bench.report().objects, 2);
    let web = ObjectKey::new("default", "a");
    let object = bench.folder.store.snapshot().object(Kind::Service, &web);
    assert_eq!(object.expect("it is there").metadata().origin, "a.yaml");
}

#[test]
fn what_is_wrong_is_reported_and_the_last_good_version_stays() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &service("a", 1));
    bench.write("b.yaml", &service("b", 2));
    bench.folder.first_look();
    for (text, place) in [
        (
            service("a", 1).replace("port: 1", "port: 70000"),
            "a.yaml:1",
        ),
        ("kind: Service\nmetadata: [\n".to_owned(), "a.yaml:2"),
        ("\n\nmetadata: {name: a}\n".to_owned(), "a.yaml:3"),
    ] {
        bench.write("a.yaml", &text);
        bench.look();
        assert_eq!(bench.services(), ["a:1", "b:2"], "{text}");
        let report = bench.report();
        let places: Vec<_> = report
            .rejections
            .iter()
            .map(|it| it.place.as_str())
            .collect();
        assert_eq!(places, [place], "{report:?}");
        assert_eq!(report.rejected, 1);
    }
    bench.write("a.yaml", &service("a", 3));
    bench.look();
    assert_eq!(bench.services(), ["a:3", "b:2"]);
    assert_eq!(bench.report().rejected, 0);
}

#[test]
fn folder_that_cannot_be_read_keeps_everything() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &service("a", 1));
    bench.folder.first_look();
    let aside = bench.directory.path().with_extension("aside");
    fs::rename(bench.directory.path(), &aside).expect("it moves");
    bench.look();
    bench.look();
    assert_eq!(bench.services(), ["a:1"]);
    assert!(bench.report().error.is_some());
    // An agent that starts now knows nothing of what is gone.
    let directory = bench.directory.path().to_owned();
    let store = Arc::clone(&bench.folder.store);
    let mut later = Folder::new(directory, store, Board::default());
    later.first_look();
    assert_eq!(bench.services(), ["a:1"]);

    fs::rename(&aside, bench.directory.path()).expect("it moves back");
    bench.look();
    assert_eq!(bench.report().error, None);
}

#[test]
fn swapped_link_of_a_mounted_map_is_seen() {
    let mut bench = Bench::new();
    for (version, port) in [("..1", 1), ("..2", 2)] {
        fs::create_dir(bench.path(version)).expect("a folder");
        bench.write(&format!("{version}/a.yaml"), &service("a", port));
    }
    symlink("..1", bench.path("..data")).expect("a link");
    symlink("..data/a.yaml", bench.path("a.yaml")).expect("a link");
    bench.folder.first_look();
    assert_eq!(bench.services(), ["a:1"]);

    symlink("..2", bench.path("..data_tmp")).expect("a link");
    fs::rename(bench.path("..data_tmp"), bench.path("..data")).expect("it is swapped");
    bench.look();
    assert_eq!(bench.services(), ["a:2"]);
}

#[test]
fn link_to_nowhere_and_pipe_are_refused_without_waiting() {
    let mut bench = Bench::new();
    symlink("nowhere", bench.path("a.yaml")).expect("a link");
    nix::unistd::mkfifo(&bench.path("b.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    bench.folder.first_look();
    let report = bench.report();
    let places: Vec<_> = report
        .rejections
        .iter()
        .map(|it| it.place.as_str())
        .collect();
    assert_eq!(places, ["a.yaml:1", "b.yaml:1"], "{report:?}");
}

#[test]
fn object_that_moves_to_another_file_stays_and_an_address_changes_hands() {
    let mut bench = Bench::new();
    // An address of no range: one that might be allotted stays with the service that has it.
    let with = |name: &str| service(name, 1).replace("ports:", "addresses: [10.1.0.9], ports:");
    bench.write("b.yaml", &with("b"));
    bench.folder.first_look();
    let uid = |bench: &Bench| {
        let key = ObjectKey::new("default", "b");
        let object = bench.folder.store.snapshot().object(Kind::Service, &key);
        object.map(|it| it.metadata().uid.clone())
    };
    let before = uid(&bench);
    fs::rename(bench.path("b.yaml"), bench.path("c.yaml")).expect("it moves");
    bench.look();
    assert_eq!(uid(&bench), before, "the same object");

    bench.write("a.yaml", &with("a"));
    bench.write("c.yaml", &service("b", 1));
    bench.look();
    assert_eq!(bench.report().rejections, [], "a takes what b gives up");
    assert_eq!(bench.services(), ["a:1", "b:1"]);
}

#[test]
fn object_of_another_source_is_reported_and_taken_when_it_may_be() {
    let mut bench = Bench::new();
    bench.write(
        "a.yaml",
        &service("a", 1).replace("ports:", "addresses: [240.240.0.9], ports:"),
    );
    let api = service("api", 1).replace("ports:", "addresses: [240.240.0.9], ports:");
    let mut document = crate::state::document::parse(&api).remove(0).expect("YAML");
    let subject = document.subject("default").expect("an object");
    let put = Change::Put(document.manifest(&subject).expect("it is right"));
    bench.folder.store.apply(put).expect("it is right");
    bench.folder.first_look();
    assert_eq!(bench.report().rejected, 1, "the address is taken");

    let delete = Change::Delete {
        kind: subject.kind,
        key: subject.key,
        resource_version: None,
    };
    bench.folder.store.apply(delete).expect("it is there");
    bench.folder.tried = Instant::now().checked_sub(RETRY);
    bench.folder.look();
    assert_eq!(bench.report().rejected, 0);
    assert_eq!(bench.services(), ["a:1"]);
}

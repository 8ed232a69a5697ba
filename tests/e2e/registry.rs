//! The registry comes from files too, goes into files, and survives what happens to disks and processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_tests::api::Api;
use mesh_tests::assert_eventually;
use mesh_tests::eventually::pause;
use mesh_tests::node::Node;
use mesh_tests::registry::{endpoint, object, service};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::shop::WEB;

const WEB_PATH: &str = "/api/v1/namespaces/shop/services/web";

fn yaml(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    texts.join("\n---\n")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn files_report(api: Api<'_>) -> Value {
    let status = api.get("/api/v1/status");
    status["sources"][0].clone()
}

#[test]
fn a_folder_of_files_is_a_source_and_what_is_wrong_in_it_hurts_only_itself() {
    let folder = folder();
    let file = folder.path().join("web.yaml");
    let place = folder.path().to_str().unwrap();
    let Some(mut node) = Node::start_with(&["--source", place]) else {
        return;
    };
    let server = node.pod("server");
    let client = node.pod("client");
    node.enrol(&client);
    server.serve_http("web-1", 8_080);
    let web = service("web", &["240.240.0.10"], "http", 80, "http");
    let web_1 = endpoint("web-1", "web", server.v4(), "http", 8_080);
    fs::write(&file, yaml(&[web.clone(), web_1.clone()])).unwrap();

    assert_eventually!(files_report(node.api())["objects"] == 2);
    node.settle();
    assert_eq!(client.get(WEB).header("x-server"), "web-1");
    let metadata = node.api().get(WEB_PATH)["metadata"].clone();
    assert_eq!(
        [&metadata["source"], &metadata["origin"]],
        ["files", "web.yaml"]
    );
    let answer = node.api().put(&web);
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert_eq!(answer.json()["reason"], "Owned", "{}", answer.body);
    let shown = node.command(&["services"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("SOURCE") && shown.contains("files"),
        "{shown}"
    );

    // One object is wrong; then the whole file is no YAML.
    let mut bad = web.clone();
    bad["spec"]["ports"][0]["port"] = json!(70_000);
    for text in [yaml(&[bad, web_1]), "kind: [".to_owned()] {
        fs::write(&file, text).unwrap();
        assert_eventually!(files_report(node.api())["rejected"] == 1);
        let rejection = files_report(node.api())["rejections"][0].clone();
        assert_eq!(rejection["place"], "web.yaml:1", "{rejection}");
        let metrics = node.metrics();
        assert!(
            metrics
                .text()
                .contains("mesh_registry_rejected{source=\"files\"} 1\n")
        );
        assert_eq!(client.get(WEB).status, 200);
    }
    assert_eventually!(node.agent().log().contains("spec.ports[0].port"));
    let shown = node.command(&["status"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("web.yaml:1"), "{shown}");
    node.restart_agent();
    assert_eq!(client.get(WEB).status, 200, "the last good version stays");

    fs::write(&file, yaml(&[web])).unwrap();
    assert_eventually!(files_report(node.api())["rejected"] == 0);
    assert_eventually!(files_report(node.api())["objects"] == 1);
    fs::remove_file(&file).unwrap();
    let gone = || node.api().call("GET", WEB_PATH, &Value::Null).status == 404;
    assert_eventually!(gone());
}

#[test]
fn what_is_exported_is_imported_and_a_wrong_file_changes_nothing() {
    let Some(node) = Node::start() else { return };
    let folder = folder();
    let file = folder.path().join("all.yaml");
    let text = file.to_str().unwrap();
    let web = service("web", &["240.240.0.10"], "http", 80, "http");
    let target = json!({"target": {"kind": "Service", "name": "web"}, "retries": {}});
    node.apply(&[web.clone(), object("TrafficPolicy", "web", &target)]);
    let run = |words: &[&str]| {
        let output = node.command(words).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let complained = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said, complained)
    };

    assert_eq!(run(&["registry", "export", "-o", text]).0, Some(0));
    let exported = fs::read_to_string(&file).unwrap();
    assert!(!exported.contains("status") && !exported.contains("uid"));
    node.delete(&web);
    let (code, said, _) = run(&["registry", "import", text, "--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(node.api().get("/api/v1/services")["items"], json!([]));
    let (code, said, _) = run(&["registry", "import", text]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Service shop/web created"), "{said}");
    assert_eq!(run(&["registry", "export"]).1.trim(), exported.trim());

    let wrong = exported
        .replace("port: 80", "port: 81")
        .replace("retries", "retires");
    fs::write(&file, wrong).unwrap();
    let (code, _, complained) = run(&["registry", "import", text]);
    assert_eq!(code, Some(65), "{complained}");
    assert!(complained.contains("spec.retires"), "{complained}");
    // Each is right alone, and one takes the address of the other.
    let rival = exported
        .replace("name: web", "name: rival")
        .replace("240.240.0.10", "240.240.0.11");
    let third = rival.replace("name: rival", "name: third");
    let changed = exported.replace("port: 80", "port: 81");
    fs::write(&file, [changed, rival, third].join("\n")).unwrap();
    let (code, _, complained) = run(&["registry", "import", text]);
    assert_eq!(code, Some(65), "{complained}");
    assert!(complained.contains("spec.addresses[0]"), "{complained}");
    let port = node.api().get(WEB_PATH)["spec"]["ports"][0]["port"].clone();
    assert_eq!(port, 80, "nothing is written");
}

#[test]
fn a_damaged_registry_is_refused_and_restored_from_its_last_export() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let server = node.pod("server");
    let client = node.pod("client");
    node.enrol(&client);
    server.serve_http("web-1", 8_080);
    node.apply(&[
        service("web", &["240.240.0.10"], "http", 80, "http"),
        endpoint("web-1", "web", server.v4(), "http", 8_080),
    ]);
    // The first export of an agent comes at once, the next after a minute.
    node.restart_agent();
    let export = node.state_dir().join("registry.export.yaml");
    let is_exported = || fs::read_to_string(&export).is_ok_and(|it| it.contains("web-1"));
    assert_eventually!(is_exported());
    let revision = |node: &Node| node.api().get("/api/v1/status")["revision"].as_u64();
    let before = revision(&node);
    node.agent().kill();
    let registry = node.state_dir().join("registry.redb");
    fs::write(&registry, "something else").unwrap();

    node.start_agent_unready();
    assert_eq!(node.agent().wait(), 1);
    // Its last lines may be read after its end.
    assert_eventually!({
        let log = node.agent().log();
        log.contains("registry.redb is damaged") && log.contains("--restore")
    });
    assert_eq!(fs::read(&registry).unwrap(), b"something else");

    node.set_flags(&["--restore"]);
    node.start_agent();
    assert_eventually!(node.agent().log().contains("registry was restored"));
    assert!(revision(&node) > before, "versions go on");
    node.settle();
    assert_eventually!(client.try_get(WEB).is_ok_and(|it| it.status == 200));
    node.restart_agent();
    assert!(
        !node.agent().log().contains("registry was restored"),
        "a good one is kept"
    );
    assert_eq!(client.get(WEB).header("x-server"), "web-1");
}

/// A small disk, which is taken away before what it is mounted on.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, bytes: u32) -> Self {
        let size = format!("size={bytes}");
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(&*size)).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What cannot be taken away now goes with the machine.
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap_or_default();
    }
}

#[test]
fn a_full_disk_refuses_writes_while_reads_and_traffic_go_on() {
    let Some(mut node) = Node::without_agent() else {
        return;
    };
    let disk = Disk::mount(node.state_dir(), 4 << 20);
    let server = node.pod("server");
    let client = node.pod("client");
    let filler = node.state_dir().join("filler");
    fs::write(&filler, vec![0; 2_600_000]).unwrap();
    node.start_agent();
    node.enrol(&client);
    server.serve_http("web-1", 8_080);
    node.apply(&[
        service("web", &["240.240.0.10"], "http", 80, "http"),
        endpoint("web-1", "web", server.v4(), "http", 8_080),
    ]);
    let big = |number: usize| {
        let mut it = service(&format!("s{number}"), &[], "http", 80, "http");
        it["metadata"]["annotations"] = json!({ "big": "x".repeat(20_000) });
        it
    };
    let mut written = 0;
    let refused = loop {
        let answer = node.api().put(&big(written));
        if answer.status != 201 {
            break answer;
        }
        written += 1;
        assert!(written < 1_000, "the disk is never full");
    };
    assert_eq!(refused.status, 507, "{}", refused.body);
    assert_eq!(refused.json()["reason"], "DiskFull", "{}", refused.body);
    assert_eq!(
        node.api().put(&big(written)).status,
        507,
        "and so is the next"
    );
    let services = node.api().get("/api/v1/services");
    assert_eq!(services["items"].as_array().unwrap().len(), written + 1);
    assert_eq!(client.get(WEB).header("x-server"), "web-1");

    fs::remove_file(&filler).unwrap();
    assert_eq!(
        node.api().put(&big(written)).status,
        201,
        "there is room again"
    );
    node.restart_agent();
    let services = node.api().get("/api/v1/services");
    assert_eq!(services["items"].as_array().unwrap().len(), written + 2);
    assert_eq!(client.get(WEB).header("x-server"), "web-1");
    node.agent().kill();
    drop(disk);
}

/// What one writer knows of its object: the number that was acknowledged last, and the one that was sent last.
#[derive(Default)]
struct Writer {
    acknowledged: AtomicU64,
    sent: AtomicU64,
}

impl Writer {
    /// Writes one number after the other until the agent is gone. Number and name of the version must always agree.
    fn write(&self, api: Api<'_>, name: &str) {
        loop {
            let number = self.sent.load(Ordering::Relaxed) + 1;
            self.sent.store(number, Ordering::Relaxed);
            let mut it = service(name, &[], "http", 80, "http");
            it["spec"]["version"] = json!(number.to_string());
            it["metadata"]["labels"] = json!({ "number": number.to_string() });
            let path = format!("/api/v1/namespaces/shop/services/{name}");
            match api.try_call("PUT", &path, &it) {
                Ok(answer) => {
                    assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
                    self.acknowledged.store(number, Ordering::Relaxed);
                }
                Err(_gone) => return,
            }
        }
    }

    /// Asserts that the object is as it was acknowledged, or as it was sent last, and wholly so.
    fn check(&self, api: Api<'_>, name: &str) {
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        let path = format!("/api/v1/namespaces/shop/services/{name}");
        let answer = api.call("GET", &path, &Value::Null);
        if answer.status == 404 {
            assert_eq!(acknowledged, 0, "{name} was acknowledged and is gone");
            return;
        }
        let it = answer.json();
        let number: u64 = it["spec"]["version"].as_str().unwrap().parse().unwrap();
        let sent = self.sent.load(Ordering::Relaxed);
        assert!(
            (acknowledged..=sent).contains(&number),
            "{name}: {number} of {acknowledged}..{sent}"
        );
        assert_eq!(it["metadata"]["labels"]["number"], number.to_string());
        assert_eq!(it["status"]["addresses"].as_array().unwrap().len(), 2);
        self.acknowledged.store(number, Ordering::Relaxed);
    }
}

#[test]
fn writes_that_were_acknowledged_survive_kills_at_any_point() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let writers: Vec<Writer> = (0..4).map(|_| Writer::default()).collect();
    let names: Vec<String> = (0..4).map(|index| format!("s{index}")).collect();
    let acknowledged = || -> u64 {
        let counts = writers
            .iter()
            .map(|it| it.acknowledged.load(Ordering::Relaxed));
        counts.sum()
    };
    let mut kills = 0_u64;
    while acknowledged() < 1_000 {
        let pid = Pid::from_raw(node.agent().pid().cast_signed());
        std::thread::scope(|scope| {
            for (writer, name) in writers.iter().zip(&names) {
                let api = node.api();
                scope.spawn(move || writer.write(api, name));
            }
            // Any point will do, as long as it is another one each time.
            pause(Duration::from_millis(20 + kills * 37 % 280));
            kill(pid, Signal::SIGKILL).unwrap();
        });
        kills += 1;
        node.start_agent();
        for (writer, name) in writers.iter().zip(&names) {
            writer.check(node.api(), name);
        }
        let dump = node.api().get("/api/v1/config_dump");
        let numbered = dump["ids"].as_array().unwrap().iter();
        let numbered = numbered.filter(|it| it["subject"].get("Service").is_some());
        let services = dump["objects"]["services"].as_array().unwrap();
        assert_eq!(numbered.count(), services.len(), "each has its number");
    }
    assert!(kills > 3, "{kills} kills are not many");
}

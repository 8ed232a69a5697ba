//! The binary as people call it: precedence of settings, exit codes, and `exec` against an agent that is played.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: failing loudly is the point, and a skipped one says why"
)]

#[path = "cli/exec.rs"]
mod exec;
#[path = "cli/fake_agent.rs"]
mod fake_agent;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake_agent::FakeAgent;
use serde_json::json;

#[test]
fn a_flag_beats_the_environment_that_beats_the_file_that_beats_the_default() {
    let directory = tempfile::tempdir().expect("there is a disk");
    let file = directory.path().join("mesh.yaml");
    fs::write(
        &file,
        "workers: 2\nlogLevel: warn\ndrainTimeout: 2s\nproxy: {connectTimeout: 3s}\n",
    )
    .expect("there is a disk");
    let output = agent()
        .args(["run", "--print-config", "--cgroup", "/cg", "--workers", "4"])
        .arg("--config")
        .arg(&file)
        .env("MESH_WORKERS", "3")
        .env("MESH_LOG_LEVEL", "debug")
        .output()
        .expect("it runs");
    let text = stdout(&output);
    for line in [
        "workers: 4\n",
        "logLevel: debug\n",
        "drainTimeout: 2s\n",
        "  connectTimeout: 3s\n",
        "pinDir: /sys/fs/bpf/mesh\n",
        "cgroup: /cg\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(code(&output), 0);
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_key() {
    let directory = tempfile::tempdir().expect("there is a disk");
    let file = directory.path().join("mesh.yaml");
    fs::write(&file, "workers: 2\ndrainTimeuot: 2s\n").expect("there is a disk");
    let output = agent()
        .args(["run", "--validate-only", "--cgroup", "/cg", "--config"])
        .arg(&file)
        .output()
        .expect("it runs");
    let wanted = format!("{}:2: unknown field `drainTimeuot`", file.display());
    assert!(stderr(&output).contains(&wanted), "{}", stderr(&output));
    assert_eq!(code(&output), 65);
}

#[test]
fn exit_codes_tell_why() {
    for (words, wanted, said) in [
        ("run --validate-only --cgroup /cg", 0, ""),
        ("run --workers many", 2, "--workers"),
        (
            "run --validate-only --cgroup cg",
            65,
            "cgroup: cg is not absolute",
        ),
        (
            "run --validate-only --config /does/not/exist",
            66,
            "/does/not/exist",
        ),
        (
            "status --api 127.0.0.1:1",
            69,
            "is `mesh-agent run` running?",
        ),
        (
            "status --unix-socket /does/not/exist",
            69,
            "/does/not/exist",
        ),
        ("services Web --api 127.0.0.1:1", 64, "is no name"),
        ("apply -f /does/not/exist", 66, "/does/not/exist"),
        ("no-such-command", 2, "no-such-command"),
        ("version", 0, ""),
    ] {
        let output = agent().args(words.split(' ')).output().expect("it runs");
        assert_eq!(code(&output), wanted, "{words}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(said),
            "{words}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn an_address_on_the_command_line_beats_a_socket_in_the_environment() {
    let fake = FakeAgent::start(Path::new("/cg"));
    let status = || {
        let mut command = agent();
        command
            .arg("status")
            .env("MESH_UNIX_SOCKET", "/does/not/exist");
        command
    };
    let address = fake.address().to_string();
    let output = status().args(["--api", &address]).output();
    let output = output.expect("it runs");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let output = status().env("MESH_API", &address).output();
    assert_eq!(code(&output.expect("it runs")), 69);
}

#[test]
fn an_export_that_cannot_be_written_leaves_the_last_one() {
    let fake = FakeAgent::start(Path::new("/cg"));
    let services = "/api/v1/namespaces/shop/services/web";
    let spec = json!({"ports": [{"name": "http", "port": 80}], "version": "v".repeat(10_000)});
    fake.put(
        services,
        json!({"kind": "Service", "metadata": {"name": "web"}, "spec": spec}),
    );
    let directory = tempfile::tempdir().expect("there is a disk");
    let file = directory.path().join("all.yaml");
    fs::write(&file, "the last good one").expect("there is a disk");
    let export = |limit: &str| {
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$@\"");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_mesh-agent")])
            .args(["registry", "export", "--api", &fake.address().to_string()])
            .arg("-o")
            .arg(&file);
        command.output().expect("it runs")
    };

    let output = export("1");
    assert_eq!(code(&output), 73, "{}", stderr(&output));
    let kept = fs::read_to_string(&file).expect("it is there");
    assert_eq!(kept, "the last good one");
    assert_eq!(
        fs::read_dir(directory.path()).expect("it is there").count(),
        1
    );

    let output = export("unlimited");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = fs::read_to_string(&file).expect("it is there");
    assert!(
        text.starts_with("---\n") && text.contains("name: web"),
        "{text}"
    );
    let output = ask(&fake, &["registry", "export", "-o", "/dev/stdout"]);
    assert_eq!(stdout(&output), text, "{}", stderr(&output));
}

#[test]
fn objects_are_applied_listed_and_deleted() {
    let fake = FakeAgent::start(Path::new("/cg"));
    let directory = tempfile::tempdir().expect("there is a disk");
    let file = directory.path().join("web.yaml");
    let web = "apiVersion: mesh.dev/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n";
    fs::write(&file, web).expect("there is a disk");

    let output = ask(&fake, &["apply", "-f", &file.display().to_string()]);
    assert_eq!(
        stdout(&output),
        "Service shop/web created\n",
        "{}",
        stderr(&output)
    );
    let output = ask(&fake, &["services"]);
    assert!(
        stdout(&output).contains("shop       web"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    let output = ask(&fake, &["services", "web", "-n", "shop", "-o", "yaml"]);
    assert!(
        stdout(&output).contains("apiVersion: mesh.dev/v1alpha1"),
        "{}",
        stdout(&output)
    );
    let output = ask(&fake, &["delete", "service", "web", "-n", "shop"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let output = ask(&fake, &["services", "web", "-n", "shop"]);
    assert_eq!(code(&output), 66, "{}", stderr(&output));
}

#[test]
fn exec_runs_in_a_cgroup_of_its_own_and_leaves_nothing() {
    let Some(cgroup) = Cgroup::make("exec") else {
        return;
    };
    let fake = FakeAgent::start(&cgroup.0);
    let words =
        "exec --workload one --namespace shop --address 10.0.0.2 --service web --port 80 --";
    let mut child = agent();
    child
        .args(words.split(' '))
        .args([
            "sh",
            "-c",
            "cat /proc/self/cgroup; read line; sleep 100 & exit 7",
        ])
        .env("MESH_API", fake.address().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let child = child.spawn().expect("it runs");
    let endpoint = "/api/v1/namespaces/shop/endpoints/one";
    eventually("the endpoint is there", || fake.get(endpoint).is_some());
    assert_eq!(
        fake.get(endpoint).expect("it is there")["spec"]["ports"],
        json!({"main": 80})
    );

    // The end of its input ends the command.
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(code(&output), 7);
    let inside = stdout(&output);
    assert!(inside.contains("/mesh-exec-shop-one-"), "{inside}");
    assert!(fake.get(endpoint).is_none());
    assert!(fake.get("/api/v1/namespaces/shop/workloads/one").is_none());
    assert!(fake.get("/api/v1/namespaces/shop/services/web").is_some());
    assert_eq!(
        cgroup.children(),
        0,
        "the cgroup is gone, with the process left behind"
    );
}

#[test]
fn exec_hands_signals_on_and_tidies_up() {
    let Some(cgroup) = Cgroup::make("signal") else {
        return;
    };
    let fake = FakeAgent::start(&cgroup.0);
    let child = agent()
        .args(["exec", "--workload", "two", "--address", "10.0.0.2", "--"])
        .args([
            "sh",
            "-c",
            "trap 'exit 9' TERM; echo ready > \"$0\"; while :; do sleep 0.05; done",
        ])
        .arg(cgroup.marker())
        .env("MESH_API", fake.address().to_string())
        .spawn()
        .expect("it runs");
    eventually("the command runs", || cgroup.marker().exists());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is there");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(code(&output), 9);
    assert!(
        fake.get("/api/v1/namespaces/default/workloads/two")
            .is_none()
    );
    assert_eq!(cgroup.children(), 0);
}

#[test]
fn exec_starts_nothing_where_the_agent_does_not_enrol() {
    let Some(cgroup) = Cgroup::make("refused") else {
        return;
    };
    let fake = FakeAgent::start(&cgroup.0);
    fake.refuse_workloads();
    let marker = cgroup.marker();
    let output = agent()
        .args([
            "exec",
            "--workload",
            "three",
            "--address",
            "10.0.0.2",
            "--",
            "touch",
        ])
        .arg(&marker)
        .env("MESH_API", fake.address().to_string())
        .output()
        .expect("it runs");
    assert_eq!(code(&output), 65, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("no listeners"),
        "{}",
        stderr(&output)
    );
    assert!(!marker.exists());
    assert_eq!(cgroup.children(), 0);
}

#[test]
fn exec_does_not_take_a_name_that_is_in_use() {
    let fake = FakeAgent::start(Path::new("/cg"));
    let path = "/api/v1/namespaces/default/workloads/four";
    let theirs = json!({
        "apiVersion": "mesh.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "four"},
        "spec": {"cgroup": "/cg/theirs", "addresses": ["10.0.0.9"]}
    });
    fake.put(path, theirs.clone());
    let words = [
        "exec",
        "--workload",
        "four",
        "--address",
        "10.0.0.2",
        "--",
        "true",
    ];
    let output = ask(&fake, &words);
    assert_eq!(code(&output), 73, "{}", stderr(&output));
    assert_eq!(fake.get(path), Some(theirs));
}

#[test]
fn exec_says_how_to_get_around_an_address_that_is_taken() {
    let Some(cgroup) = Cgroup::make("taken") else {
        return;
    };
    let fake = FakeAgent::start(&cgroup.0);
    let theirs = json!({"metadata": {"name": "other"}, "spec": {"addresses": ["10.0.0.2"]}});
    fake.put("/api/v1/namespaces/default/workloads/other", theirs);
    let words = [
        "exec",
        "--workload",
        "five",
        "--address",
        "10.0.0.2",
        "--",
        "true",
    ];
    let output = ask(&fake, &words);
    assert_eq!(code(&output), 65, "{}", stderr(&output));
    assert!(stderr(&output).contains("--address"), "{}", stderr(&output));
}

#[test]
fn exec_shares_an_address_that_nobody_asked_for() {
    let Some(cgroup) = Cgroup::make("shared") else {
        return;
    };
    let fake = FakeAgent::start(&cgroup.0);
    let output = ask(&fake, &["exec", "--workload", "six", "--", "true"]);
    if code(&output) == 64 {
        println!("skipped: {}", stderr(&output));
        return;
    }
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let nested = ["exec", "--workload", "seven", "--"];
    let inner = env!("CARGO_BIN_EXE_mesh-agent");
    let output = agent()
        .args(nested)
        .args([
            inner,
            "exec",
            "--workload",
            "eight",
            "--",
            "sh",
            "-c",
            "exit 5",
        ])
        .env("MESH_API", fake.address().to_string())
        .output()
        .expect("it runs");
    assert_eq!(code(&output), 5, "{}", stderr(&output));
}

/// A cgroup for one test, below the root of the cgroup2 mount.
struct Cgroup(PathBuf);

impl Cgroup {
    /// None, with a word why, where the test may not make one.
    fn make(name: &str) -> Option<Self> {
        let root = mesh_agent::config::default_cgroup();
        let path = root.map(|root| root.join(format!("mesh-cli-{name}-{}", std::process::id())));
        let made =
            path.map_err(|error| error.to_string())
                .and_then(|path| match fs::create_dir(&path) {
                    Ok(()) => Ok(Self(path)),
                    Err(error) => Err(error.to_string()),
                });
        match made {
            Ok(cgroup) => Some(cgroup),
            Err(reason) => {
                let is_required = std::env::var_os("MESH_TESTS_REQUIRE").is_some();
                assert!(!is_required, "cannot make a cgroup: {reason}");
                println!("skipped: cannot make a cgroup: {reason}");
                None
            }
        }
    }

    fn children(&self) -> usize {
        let entries = fs::read_dir(&self.0).expect("it is there");
        entries
            .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir()))
            .count()
    }

    /// A file that says that a command runs.
    fn marker(&self) -> PathBuf {
        let name = self.0.file_name().expect("it has a name");
        std::env::temp_dir().join(name)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(fs::remove_file(self.marker()));
        if let Ok(entries) = fs::read_dir(&self.0) {
            for entry in entries.flatten() {
                drop(fs::write(entry.path().join("cgroup.kill"), "1"));
            }
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && fs::remove_dir(&self.0).is_err() {
            if let Ok(entries) = fs::read_dir(&self.0) {
                for entry in entries.flatten() {
                    drop(fs::remove_dir(entry.path()));
                }
            }
            std::thread::yield_now();
        }
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// The binary, with nothing of the environment that could configure it.
fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MESH_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn ask(fake: &FakeAgent, words: &[&str]) -> Output {
    let mut command = agent();
    command.args(words);
    command.env("MESH_API", fake.address().to_string());
    command.output().expect("it runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

//! `exec` where it must not run, where others share its names, and where the agent has gone silent.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mesh_agent::state::report::RegistryReport;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{Cgroup, FakeAgent, agent, ask, code, eventually, stderr};

#[test]
fn nothing_is_started_in_another_network_namespace_than_the_agents() {
    let Some(cgroup) = Cgroup::make("elsewhere") else {
        return;
    };
    let fake = FakeAgent::start(&cgroup.0);
    let own = fs::metadata("/proc/self/ns/net")
        .expect("it is there")
        .ino();
    let marker = cgroup.marker().display().to_string();
    let run = || {
        let words = ["exec", "--workload", "nine", "--address", "10.0.0.2", "--"];
        let mut all = words.to_vec();
        all.extend(["touch", &marker]);
        ask(&fake, &all)
    };

    fake.tell(|status| status.network_namespace = Some(own + 1));
    let output = run();
    assert_eq!(code(&output), 71, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("spec.netns"),
        "{}",
        stderr(&output)
    );
    assert!(!cgroup.marker().exists());

    fake.tell(|status| status.network_namespace = Some(own));
    let output = run();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(cgroup.marker().exists());
}

#[test]
fn the_same_workload_of_another_node_keeps_its_endpoint() {
    let Some(cgroup) = Cgroup::make("nodes") else {
        return;
    };
    let fake = FakeAgent::start(&cgroup.0);
    fake.tell(|status| {
        status.registry = Some(RegistryReport {
            node: "red".to_owned(),
            ..RegistryReport::default()
        });
    });
    let path = |name: &str| format!("/api/v1/namespaces/default/endpoints/{name}");
    let endpoint = |name: &str| {
        json!({
            "apiVersion": "mesh.dev/v1alpha1", "kind": "Endpoint",
            "metadata": {"name": name, "annotations": {"mesh.dev/made-by": "exec"}, "source": "etcd", "origin": "blue"},
            "spec": {"service": "web", "address": "10.0.0.9", "ports": {"main": 80}}
        })
    };
    let theirs = ["web", "web.blue"].map(|name| (path(name), endpoint(name)));
    for (path, endpoint) in &theirs {
        fake.put(path, endpoint.clone());
    }
    let words = "exec --workload web --address 10.0.0.2 --service web --port 80 -- sh -c";
    let mut words: Vec<&str> = words.split(' ').collect();
    words.push("sleep 100");
    let mut child = agent();
    child
        .args(&words)
        .env("MESH_API", fake.address().to_string());
    let child = child.spawn().expect("it runs");
    eventually("it has one of its own", || {
        fake.get(&path("web.red")).is_some()
    });
    terminate(&child);
    child.wait_with_output().expect("it ends");
    assert_eq!(fake.get(&path("web.red")), None);

    fake.put(&path("web.red"), endpoint("web.red"));
    let output = ask(&fake, &words);
    assert_eq!(code(&output), 73, "{}", stderr(&output));
    for (path, endpoint) in theirs {
        assert_eq!(fake.get(&path), Some(endpoint));
    }
}

#[test]
fn a_signal_ends_it_where_the_agent_does_not_answer() {
    let Some(cgroup) = Cgroup::make("hung") else {
        return;
    };
    let start = |fake: &FakeAgent, script: &str| {
        let mut command = agent();
        command
            .args(["exec", "--workload", "ten", "--address", "10.0.0.2"])
            .args(["--service", "web", "--port", "80", "--", "sh", "-c", script])
            .env("MESH_API", fake.address().to_string())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("it runs")
    };
    let ends_soon = |child: Child, wanted: i32| {
        terminate(&child);
        let begun = Instant::now();
        let output = child.wait_with_output().expect("it ends");
        assert!(begun.elapsed() < Duration::from_secs(9), "{begun:?}");
        assert_eq!(code(&output), wanted, "{}", stderr(&output));
        stderr(&output)
    };

    let fake = FakeAgent::start(&cgroup.0);
    let mut child = start(&fake, "read line; exit 7");
    let endpoint = "/api/v1/namespaces/default/endpoints/ten";
    eventually("it is registered", || fake.get(endpoint).is_some());
    fake.hang();
    // The end of its input ends the command.
    drop(child.stdin.take());
    eventually("it tidies up", || fake.held() == 1);
    let said = ends_soon(child, 7);
    let left = "Endpoint default/ten and Workload default/ten may still be there";
    assert!(said.contains(left), "{said}");
    assert_eq!(cgroup.children(), 0);

    let silent = FakeAgent::start(&cgroup.0);
    silent.hang();
    let child = start(&silent, "exit 7");
    eventually("it asks how the agent is", || silent.held() == 1);
    ends_soon(child, 128 + 15);
}

fn terminate(child: &Child) {
    let pid = i32::try_from(child.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is there");
}

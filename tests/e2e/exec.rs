//! `mesh-agent exec`: a command in a cgroup of its own, enrolled, and registered while it runs.

use std::process::Command;

use mesh_tests::assert_eventually;
use mesh_tests::pod::Pod;
use mesh_tests::requirements;
use serde_json::Value;

use crate::shop::{Shop, WEB};

/// A shop, and a neighbour whose address in the node's namespace commands can use.
fn exec(shop: &Shop, arguments: &[&str]) -> Command {
    let mut all = vec!["exec", "--namespace", "shop"];
    all.extend(arguments);
    shop.node.command(&all)
}

fn host_address(shop: &Shop) -> String {
    let neighbour: &Pod = &shop.client;
    let address = neighbour.v4().to_string();
    let (network, _) = address.rsplit_once('.').unwrap();
    format!("{network}.1")
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let Some(shop) = Shop::open(1) else { return };
    let address = host_address(&shop);
    let arguments = [
        "--workload",
        "job",
        "--address",
        &address,
        "--",
        "sh",
        "-c",
        "exit 7",
    ];
    let output = exec(&shop, &arguments).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(7),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let path = "/api/v1/namespaces/shop/workloads/job";
    assert_eq!(shop.node.api().call("GET", path, &Value::Null).status, 404);
}

#[test]
fn the_command_dials_services() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let address = host_address(&shop);
    let script = "exec 3<>/dev/tcp/240.240.0.10/80; \
                  printf 'GET / HTTP/1.1\\r\\nhost: web\\r\\nconnection: close\\r\\n\\r\\n' >&3; cat <&3";
    let arguments = [
        "--workload",
        "job",
        "--address",
        &address,
        "--",
        "bash",
        "-c",
        script,
    ];
    let output = exec(&shop, &arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("x-server: web-1"), "{WEB}: {text} {output:?}");
}

#[test]
fn the_command_serves_while_it_runs() {
    let Some(shop) = Shop::open(1) else { return };
    let address = host_address(&shop);
    let helper = requirements::program("pod");
    let helper = helper.to_str().unwrap();
    let arguments = [
        "--workload",
        "job",
        "--service",
        "jobs",
        "--port",
        "9100",
        "--address",
        &address,
        "--",
        helper,
    ];
    // The helper runs until its input ends.
    let mut command = exec(&shop, &arguments);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let endpoints = || {
        let list = shop.node.api().get("/api/v1/namespaces/shop/endpoints");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items
            .into_iter()
            .filter(|item| item["spec"]["service"] == "jobs")
            .count()
    };
    assert_eventually!(endpoints() == 1);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eventually!(endpoints() == 0);
}

#[test]
fn what_the_command_leaves_behind_is_in_the_mesh_to_its_end() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let address = host_address(&shop);
    // For longer than it is let be.
    let script = "for _ in $(seq 600); do \
                    if (exec 3<>/dev/tcp/240.240.0.10/80) 2>/dev/null; then echo in; else echo out; fi; \
                    sleep 0.01; \
                  done &";
    let mut arguments = vec!["--workload", "job", "--address", &address, "--"];
    arguments.extend(["bash", "-c", script]);
    let output = exec(&shop, &arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.lines().filter(|it| *it == "in").count() > 5, "{text}");
    assert!(!text.contains("out"), "{text}");
    let path = "/api/v1/namespaces/shop/workloads/job";
    assert_eq!(shop.node.api().call("GET", path, &Value::Null).status, 404);
}

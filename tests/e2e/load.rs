//! Every program passes the verifier, is attached, and every map is there.

use std::collections::BTreeSet;

use mesh_tests::assert_eventually;
use mesh_tests::node::Node;
use serde_json::Value;

use crate::shop::Shop;

fn names(list: &Value) -> BTreeSet<String> {
    let items = list.as_array().unwrap();
    items
        .iter()
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_program_and_map_is_in_the_kernel() {
    let Some(shop) = Shop::open(0) else { return };
    let report = shop.node.api().get("/api/v1/bpf");
    let programs = names(&report["programs"]);
    for program in [
        "mesh_connect4",
        "mesh_connect6",
        "mesh_getpeer4",
        "mesh_getpeer6",
        "mesh_sendmsg4",
        "mesh_sendmsg6",
        "mesh_recvmsg4",
        "mesh_recvmsg6",
        "mesh_sock_ops",
        "mesh_sk_msg",
        "mesh_sk_lookup",
        "mesh_egress",
    ] {
        assert!(programs.contains(program), "{program}: {report}");
    }
    let maps = names(&report["maps"]);
    // Storage of sockets has neither entries nor a capacity that could be shown.
    for map in [
        "WORKLOADS",
        "SERVICES",
        "SLOTS",
        "ENDPOINTS",
        "POLICY",
        "PENDING",
        "REPLIES",
        "STATS",
    ] {
        assert!(maps.contains(map), "{map}: {report}");
    }
}

#[test]
fn everything_is_pinned_under_the_version_of_the_schema() {
    let Some(node) = Node::start() else { return };
    let entries = std::fs::read_dir(node.pin_dir()).unwrap();
    let versions: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(versions, ["v2"]);
}

#[test]
fn an_agent_that_cannot_read_its_files_leaves_nothing_in_the_kernel() {
    let missing = "/nonexistent/authorities.pem";
    let Some(mut node) = Node::without_agent_yet(&["--check-ca", missing]) else {
        return;
    };
    node.start_agent_unready();
    assert_eq!(node.agent().wait(), 65);
    // Its last lines may be read after its end.
    assert_eventually!({
        let log = node.agent().log();
        log.contains("checkCa") && log.contains(missing)
    });
    assert!(!node.pin_dir().exists());
}

#[test]
fn check_has_a_line_for_everything_it_tests() {
    let Some(node) = Node::start() else { return };
    let output = node.command(&["check"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
    for word in ["kernel", "btf", "cgroup", "bpf"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn two_agents_on_two_cgroups_do_not_meet() {
    let (Some(first), Some(second)) = (Shop::open(1), Shop::open(1)) else {
        return;
    };
    first.open_cache();
    assert!(first.client.connect(crate::shop::cache()).is_ok());
    assert!(second.client.connect(crate::shop::cache()).is_err());
}

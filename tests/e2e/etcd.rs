//! Several nodes share one registry: a real etcd, three agents in three namespaces.

use std::time::{Duration, Instant};

use mesh_tests::assert_eventually;
use mesh_tests::eventually::becomes;
use mesh_tests::fleet::Fleet;
use mesh_tests::node::Node;
use mesh_tests::protocol::Load;
use mesh_tests::registry::{endpoint, object};
use serde_json::{Value, json};

use crate::three::Three;

/// How long endpoints outlive their node here.
const TTL: Duration = Duration::from_secs(3);
/// Longest time until an endpoint of one node is reached from another.
const QUICK: Duration = Duration::from_secs(1);
/// Between the end of a lease and what etcd and the agents make of it.
const SLACK: Duration = Duration::from_secs(3);
/// How long etcd hangs: longer than leases last.
const HUNG: Duration = Duration::from_secs(10);
/// How long etcd is gone, at a stretch.
const GONE: Duration = Duration::from_mins(1);

/// Without addresses: they are allotted for all nodes.
fn web() -> Value {
    let ports = json!([{"name": "http", "port": 80, "protocol": "http"}]);
    object("Service", "web", &json!({"ports": ports}))
}

#[test]
fn what_is_registered_on_one_node_is_reached_from_another_and_goes_with_its_node() {
    let Some(mut three) = Three::start("3s") else {
        return;
    };
    three.nodes[0].api().apply(&web());
    let address = three.address(1);
    assert_eq!(address, three.address(2), "one address for all nodes");

    // What else the machine does may hold one up, but not all of them.
    let is_quick = (0..5).any(|_| time_to_reach(&three) < QUICK);
    assert!(is_quick, "not once within {QUICK:?}");
    let path = "/api/v1/namespaces/shop/endpoints/web-blue";
    let metadata = three.nodes[1].api().get(path)["metadata"].clone();
    assert_eq!(
        (&metadata["source"], &metadata["origin"]),
        (&json!("etcd"), &json!("blue"))
    );
    assert_eq!(three.registry(1)["connected"], true);
    let metrics = three.nodes[1].metrics();
    assert!(metrics.sum("mesh_registry_connected", &[]) > 0.5);
    assert_eventually!(
        three.nodes[1]
            .agent()
            .log()
            .contains(r#""dst.service":"shop/web""#)
    );

    three.register(0);
    assert_eventually!(three.endpoints(1).len() == 2);
    three.nodes[2].agent().kill();
    let killed = Instant::now();
    assert!(
        becomes(TTL + SLACK, || three.endpoints(1) == ["web-red"]),
        "{:?}",
        three.endpoints(1)
    );
    println!("an endpoint went {:?} after its node", killed.elapsed());
    // The proxy hears of it a moment later.
    three.nodes[1].settle();
    assert_eq!(three.answer(1).as_deref(), Some("red"));

    three.nodes[2].start_agent();
    assert_eventually!(three.endpoints(1).len() == 2, Duration::from_secs(20));
    three.nodes[1].api().delete(&blue(&three));
    assert_eventually!(three.endpoints(2) == ["web-red"]);
}

/// What the third node registers.
fn blue(three: &Three) -> Value {
    endpoint("web-blue", "web", three.servers[2].v4(), "http", 8_080)
}

/// How long it takes from a registration on the third node until it is reached from the second.
fn time_to_reach(three: &Three) -> Duration {
    if !three.endpoints(2).is_empty() {
        three.nodes[2].api().delete(&blue(three));
        assert_eventually!(three.endpoints(1).is_empty());
        three.nodes[1].settle();
    }
    three.register(2);
    let registered = Instant::now();
    let is_reached = || three.answer(1).as_deref() == Some("blue");
    assert!(
        becomes(Duration::from_secs(5), is_reached),
        "{:?}",
        three.endpoints(1)
    );
    registered.elapsed()
}

#[test]
fn while_etcd_is_away_for_a_minute_no_request_fails_and_all_converge_after() {
    let Some(mut three) = Three::start("5s") else {
        return;
    };
    three.nodes[0].api().apply(&web());
    three.register(0);
    three.register(1);
    for index in 0..3 {
        assert_eventually!(three.endpoints(index).len() == 2);
        three.nodes[index].settle();
    }
    let loads: Vec<_> = (0..3)
        .map(|index| {
            three.clients[index].load(Load {
                http: true,
                address: three.address(index),
                connections: 4,
                keep_alive: true,
                millis: 600_000,
                pause_micros: 2_000,
            })
        })
        .collect();

    hang(&three);
    die(&three);

    for load in loads {
        let report = load.stop();
        assert_eq!(report.failed, 0, "{report:?}");
        assert!(report.succeeded > 1_000, "{report:?}");
        assert!(
            report.by_server["red"] > 0 && report.by_server["green"] > 0,
            "{report:?}"
        );
    }
    assert!(
        three.nodes[0]
            .agent()
            .log()
            .contains("the shared registry is away")
    );
}

/// etcd hangs for longer than leases last.
fn hang(three: &Three) {
    three.fleet.freeze_etcd();
    let away = Instant::now();
    assert_eventually!(are_connected(three, false));
    three.register(2);
    assert_eq!(three.endpoints(2).len(), 3, "its own node knows it at once");
    assert_eq!(three.registry(2)["queued"], 1);
    assert_eq!(
        three.nodes[2]
            .api()
            .call("GET", "/readyz", &Value::Null)
            .status,
        200
    );
    expect_refused(three, 1);
    assert!(becomes(HUNG * 2, || away.elapsed() >= HUNG));
    assert_eq!(three.endpoints(1).len(), 2);
    three.fleet.thaw_etcd();
    assert_eventually!(
        (0..3).all(|index| three.endpoints(index).len() == 3),
        Duration::from_secs(20)
    );
    assert_eventually!(are_connected(three, true));
}

/// Whether all nodes say so. A node is connected again a moment after it shows what etcd had to tell.
fn are_connected(three: &Three, is_so: bool) -> bool {
    (0..3).all(|index| three.registry(index)["connected"] == is_so)
}

/// What all nodes share is not changed while etcd is away, and whoever asks for it hears why.
fn expect_refused(three: &Three, index: usize) {
    let api = three.nodes[index].api();
    let refused = api.put(&object("Service", "new", &web()["spec"]));
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(refused.json()["reason"], "RegistryUnavailable");
}

/// etcd is killed, and comes back a minute later.
fn die(three: &Three) {
    three.fleet.kill_etcd();
    let away = Instant::now();
    assert_eventually!(are_connected(three, false));
    three.nodes[2].api().delete(&blue(three));
    assert_eq!(three.endpoints(2).len(), 2, "its own node knows it at once");
    assert_eq!(three.registry(2)["queued"], 1);
    expect_refused(three, 0);
    assert!(becomes(GONE * 2, || away.elapsed() >= GONE));
    for index in 0..3 {
        let metrics = three.nodes[index].metrics();
        let stale = metrics.sum("mesh_registry_staleness_seconds", &[]);
        assert!(stale >= 50.0, "{stale}");
        assert_eq!(three.registry(index)["connected"], false);
    }
    // After all this time as at its beginning.
    expect_refused(three, 0);
    assert_eq!(three.registry(2)["queued"], 1);
    assert_eq!(three.endpoints(0).len(), 3, "nobody has told it");
    three.fleet.start_etcd();
    assert_eventually!(
        (0..3).all(|index| three.endpoints(index).len() == 2),
        Duration::from_secs(20)
    );
    assert_eventually!(are_connected(three, true));
    three.nodes[1]
        .api()
        .apply(&object("Service", "new", &web()["spec"]));
    assert_eventually!(
        three.nodes[2].api().get("/api/v1/services")["items"]
            .as_array()
            .unwrap()
            .len()
            == 2
    );
    assert_eventually!(three.registry(2)["queued"] == 0);
}

#[test]
fn instance_that_speaks_consul_on_one_node_is_found_on_another() {
    let Some(three) = Three::start("5s") else {
        return;
    };
    let ask = |index: usize, method: &str, path: &str, body: &Value| {
        let answer = three.nodes[index].api().call(method, path, body);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        answer
    };
    let instance = json!({
        "Name": "shop",
        "ID": "shop-1",
        "Address": three.servers[0].v4(),
        "Port": 8_080,
        "Check": {"TTL": "1m"},
    });
    ask(0, "PUT", "/v1/agent/service/register", &instance);
    let passing = || {
        let path = "/v1/health/service/shop?passing";
        let found = ask(1, "GET", path, &Value::Null).json();
        found.as_array().map_or(0, Vec::len)
    };
    assert_eventually!(three.endpoints(1) == ["shop-1"]);
    assert_eq!(passing(), 0, "it has not said how it is");
    ask(
        0,
        "PUT",
        "/v1/agent/check/pass/service:shop-1",
        &Value::Null,
    );
    assert_eventually!(passing() == 1);

    let service = three.nodes[1]
        .api()
        .get("/api/v1/namespaces/default/services/shop");
    let address = service["status"]["addresses"][0].as_str().unwrap();
    let url = format!("http://{address}:8080/");
    assert_eventually!(
        three.clients[1]
            .try_get(&url)
            .is_ok_and(|it| it.header("x-server") == "red")
    );

    ask(
        0,
        "PUT",
        "/v1/agent/service/deregister/shop-1",
        &Value::Null,
    );
    assert_eventually!(three.endpoints(1).is_empty());
    let gone = || {
        let path = "/api/v1/namespaces/default/services/shop";
        three.nodes[2].api().call("GET", path, &Value::Null).status == 404
    };
    assert_eventually!(gone());
}

#[test]
fn registry_asks_for_a_password_or_a_certificate_and_the_agent_has_both() {
    let Some(fleet) = Fleet::start(false) else {
        return;
    };
    fleet.protect("mesh", "s@cret");
    let address = fleet.registry().replace("etcd://", "etcd://mesh:s%40cret@");
    let Some(mut node) = Node::without_agent_yet(&["--registry", &address]) else {
        return;
    };
    fleet.connect(&node, 1);
    node.start_agent();
    node.api().apply(&web());
    let settings = node.api().get("/api/v1/config_dump").to_string();
    assert!(
        settings.contains("mesh:***@") && !settings.contains("cret"),
        "{settings}"
    );
    assert!(!node.agent().log().contains("cret"));
    drop(node);
    drop(fleet);

    let Some(fleet) = Fleet::start(true) else {
        return;
    };
    let [ca, certificate, key] = ["authority.pem", "node.pem", "node.key"]
        .map(|name| fleet.file(name).to_string_lossy().into_owned());
    let address = fleet.registry();
    let mut flags = vec!["--registry", &address, "--registry-ca", &ca];
    flags.extend(["--registry-cert", &certificate, "--registry-key", &key]);
    let Some(mut node) = Node::without_agent_yet(&flags) else {
        return;
    };
    fleet.connect(&node, 1);
    node.start_agent();
    node.api().apply(&web());
    let status = node.command(&["status"]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(
        status.contains("etcds://10.78.0.254:2379/fleet as "),
        "{status}"
    );
}

#[test]
fn agent_that_was_away_while_etcd_forgot_its_history_reads_everything_again() {
    let Some(mut three) = Three::start("3s") else {
        return;
    };
    three.nodes[0].api().apply(&web());
    three.register(0);
    assert_eventually!(three.endpoints(2).len() == 1);
    three.nodes[2].agent().freeze();
    three.nodes[0]
        .api()
        .apply(&object("Service", "new", &web()["spec"]));
    three.register(1);
    let revision = three.registry(0)["revision"].to_string();
    three.fleet.ask(
        "kv/compaction",
        &json!({"revision": revision, "physical": true}),
    );
    three.nodes[2].agent().thaw();
    assert_eventually!(three.endpoints(2).len() == 2);
    three.nodes[2].agent().kill();
    three.nodes[0]
        .api()
        .delete(&object("Service", "new", &json!({})));
    let revision = three.registry(0)["revision"].to_string();
    three.fleet.ask(
        "kv/compaction",
        &json!({"revision": revision, "physical": true}),
    );
    three.nodes[2].start_agent();
    assert_eventually!(
        three.nodes[2].api().get("/api/v1/services")["items"]
            .as_array()
            .unwrap()
            .len()
            == 1
    );
    // Counted once all is in the store, where it is seen before.
    assert_eventually!(
        three.nodes[2]
            .metrics()
            .sum("mesh_registry_resyncs_total", &[])
            >= 1.0
    );
}

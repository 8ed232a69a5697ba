//! The agent starts, hangs, dies and comes back; workloads fail as they have declared.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::assert_eventually;
use mesh_tests::node::Node;
use mesh_tests::pod::{Conn, Pod};
use mesh_tests::protocol::{How, ServerKind};
use mesh_tests::registry::{endpoint, policy, service, with};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::shop::{CACHE_PORT, Shop, WEB, cache, steady, web};

#[test]
fn direct_services_do_not_notice_that_the_agent_is_killed_and_restarted() {
    let Some(mut shop) = Shop::open(2) else {
        return;
    };
    shop.open_cache();
    let load = shop.client.load(steady(false, cache(), false));
    let kept = shop.client.connect(cache()).unwrap();
    for _ in 0..3 {
        shop.node.agent().kill();
        kept.echo("while it is dead").unwrap();
        shop.node.start_agent();
        kept.echo("when it is back").unwrap();
    }
    let report = load.stop();
    assert_eq!(report.failed, 0, "{report:?}");
    assert!(report.succeeded > 100, "{report:?}");
}

#[test]
fn with_fail_mode_open_a_dead_agent_is_worked_around_and_counted() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_web();
    shop.server().serve_echo(9_000);
    assert_eq!(shop.client.get(WEB).status, 200);
    shop.node.agent().kill();
    for _ in 0..5 {
        assert_eq!(shop.client.get(WEB).header("x-server"), "web-1");
    }
    let elsewhere = shop.client.connect(shop.server().at(9_000)).unwrap();
    elsewhere.echo("hello").unwrap();
    shop.node.start_agent();
    assert_eventually!(shop.coverage()["reasons"]["agent-absent"] == 5);
    assert_eventually!(shop.coverage()["captured"] == 1);
    assert_eq!(shop.client.get(WEB).status, 200);
    assert_eventually!(shop.coverage()["captured"] == 2);
}

#[test]
fn with_fail_mode_closed_a_dead_agent_means_refusal() {
    let Some(mut shop) = Shop::open_with(1, &json!({ "failMode": "closed" })) else {
        return;
    };
    shop.open_web();
    shop.open_cache();
    shop.node.agent().kill();
    assert_eq!(
        shop.client.connect(web()).unwrap_err().kind,
        "ConnectionRefused"
    );
    shop.client
        .connect(cache())
        .unwrap()
        .echo("direct goes on")
        .unwrap();
    shop.node.start_agent();
    assert_eq!(shop.client.get(WEB).status, 200);
    assert_eventually!(shop.coverage()["reasons"]["agent-absent"] == 1);
}

#[test]
fn a_hung_agent_is_found_out_by_its_heartbeat() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_web();
    shop.node.agent().freeze();
    // The first ones may wait in the listener of the hung agent until their own deadline.
    let goes_on = || {
        shop.client
            .try_get(WEB)
            .is_ok_and(|answer| answer.status == 200)
    };
    assert_eventually!(goes_on(), Duration::from_secs(45));
    let quick = Instant::now();
    assert_eq!(shop.client.get(WEB).header("x-server"), "web-1");
    // Who waits for the hung agent waits for twenty seconds.
    assert!(
        quick.elapsed() < Duration::from_secs(5),
        "{:?}",
        quick.elapsed()
    );
    shop.node.agent().thaw();
    assert_eventually!(shop.coverage()["reasons"]["agent-hung"].as_u64() >= Some(1));
    let before = shop.coverage()["captured"].as_u64();
    assert_eventually!({
        assert_eq!(shop.client.get(WEB).status, 200);
        shop.coverage()["captured"].as_u64() > before
    });
}

#[test]
fn policy_is_in_force_while_the_agent_is_dead() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_cache();
    let from = json!({ "serviceAccounts": ["client"] });
    shop.node
        .apply(&[policy("no", "Deny", ("Service", "cache"), &from)]);
    shop.node.agent().kill();
    assert!(shop.client.connect(cache()).is_err());
    shop.node.start_agent();
    assert!(shop.client.connect(cache()).is_err());
    assert_eventually!(shop.coverage()["denied"] == 2);
}

#[test]
fn a_restart_keeps_the_registry_and_enrolment() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_web();
    shop.open_cache();
    let path = "/api/v1/namespaces/shop/services/web";
    let before = shop.node.api().get(path);
    assert_eq!(shop.node.agent().stop(), 0);
    shop.node.start_agent();
    let after = shop.node.api().get(path);
    for field in ["uid", "generation", "creationTimestamp"] {
        assert_eq!(
            before["metadata"][field], after["metadata"][field],
            "{field}"
        );
    }
    assert_eq!(before["spec"], after["spec"]);
    assert_eventually!(
        shop.client
            .try_get(WEB)
            .is_ok_and(|answer| answer.status == 200)
    );
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
}

#[test]
fn a_restart_under_http_load_fails_only_what_was_under_way() {
    let Some(mut shop) = Shop::open(2) else {
        return;
    };
    shop.open_web();
    let load = shop.client.load(steady(true, web(), false));
    shop.node.restart_agent();
    let report = load.stop();
    assert!(
        report.failed <= 8,
        "two rounds of four connections: {report:?}"
    );
    assert!(report.succeeded > 100, "{report:?}");
}

#[test]
fn sigterm_drains_within_the_deadline() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_web();
    let slow = [("x-delay-ms", "1000")];
    let answer = std::thread::scope(|scope| {
        let client = &shop.client;
        let request = scope.spawn(|| client.request("GET", WEB, &slow, ""));
        assert_eventually!(shop.node.api().coverage("shop", "client")["captured"] == 1);
        assert_eq!(shop.node.agent().stop(), 0);
        request.join().unwrap()
    });
    assert_eq!(
        answer.unwrap().status,
        200,
        "what was under way is finished"
    );
}

/// A connection through the agent that is not over.
fn open_tunnel<'a>(node: &Node, client: &'a Pod, server: &Pod) -> Conn<'a> {
    server.serve_echo(CACHE_PORT);
    let plain = service("tunnel", &["240.240.0.21"], "tcp", 80, "tcp");
    node.apply(&[
        with(plain, &json!({ "mode": "proxy" })),
        endpoint("tunnel-1", "tunnel", server.v4(), "tcp", CACHE_PORT),
    ]);
    let address = SocketAddr::from(([240, 240, 0, 21], 80));
    let long = client.connect(address).unwrap();
    long.echo("before").unwrap();
    long
}

fn is_draining(node: &Node) -> bool {
    node.api().get("/api/v1/status")["draining"] == true
}

#[test]
fn a_second_sigterm_stops_at_once() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    let long = open_tunnel(&shop.node, &shop.client, &shop.servers[0]);
    shop.node.agent().signal(Signal::SIGTERM);
    assert_eventually!(is_draining(&shop.node));
    long.echo("while it drains").unwrap();
    let second = Instant::now();
    assert_eq!(shop.node.agent().stop(), 0);
    // A drain takes up to thirty seconds, and the end of the agent's threads up to two.
    assert!(
        second.elapsed() < Duration::from_secs(6),
        "{:?}",
        second.elapsed()
    );
    assert!(!long.receive(1).is_ok_and(|text| !text.is_empty()));
}

#[test]
fn sighup_changes_nothing_and_a_sigterm_after_a_drain_by_the_api_still_waits() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    let long = open_tunnel(&shop.node, &shop.client, &shop.servers[0]);
    let says = |node: &mut Node, what: &str| node.agent().log().contains(what);
    shop.node.agent().signal(Signal::SIGHUP);
    assert_eventually!(says(&mut shop.node, "SIGHUP changes nothing"));
    assert!(!is_draining(&shop.node));
    let asked = shop.node.api().call("POST", "/api/v1/drain", &json!(null));
    assert!(asked.status < 300, "{asked:?}");
    assert_eventually!(is_draining(&shop.node));
    // The status says so before the drain has begun, and a signal that comes first would begin it.
    assert_eventually!(says(&mut shop.node, "draining timeout="));
    shop.node.agent().signal(Signal::SIGTERM);
    assert_eventually!(says(&mut shop.node, "told to stop while it drains"));
    long.echo("while it drains").unwrap();
    assert_eq!(shop.node.agent().stop(), 0);
    assert!(!long.receive(1).is_ok_and(|text| !text.is_empty()));
}

#[test]
fn a_drain_of_an_idle_agent_is_answered_and_its_socket_goes() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let socket = node.state_dir().join("agent.sock");
    for _ in 0..5 {
        assert!(socket.exists());
        let mut drain = node.command(&["drain", "--unix-socket"]);
        let asked = drain.arg(&socket).output().unwrap();
        assert!(asked.status.success(), "{asked:?}");
        assert_eq!(node.agent().wait(), 0);
        assert!(!socket.exists());
        node.start_agent();
    }
}

#[test]
fn a_registry_that_is_gone_beside_full_maps_deletes_nothing() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_cache();
    // The first export of an agent comes at once, the next after a minute.
    shop.node.restart_agent();
    let export = shop.node.state_dir().join("registry.export.yaml");
    let is_exported = || std::fs::read_to_string(&export).is_ok_and(|it| it.contains("cache-1-v6"));
    assert_eventually!(is_exported());
    shop.node.agent().kill();
    std::fs::remove_file(shop.node.state_dir().join("registry.redb")).unwrap();
    for _ in 0..2 {
        shop.node.start_agent_unready();
        assert_eventually!({
            let answer = shop.node.api().try_call("GET", "/readyz", &json!(null));
            answer.is_ok_and(|answer| answer.status == 503 && answer.body.contains("--restore"))
        });
        shop.client.connect(cache()).unwrap().echo("hello").unwrap();
        assert_eq!(shop.node.agent().stop(), 0);
    }
    shop.node.set_flags(&["--restore"]);
    shop.node.start_agent();
    assert_eventually!(shop.node.agent().log().contains("registry was restored"));
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
    assert!(is_exported());
}

#[test]
fn a_workload_stays_in_the_mesh_when_the_agent_comes_back_to_ports_that_are_taken() {
    let fields = json!({ "failMode": "closed", "egress": "locked" });
    let Some(mut shop) = Shop::open_with(1, &fields) else {
        return;
    };
    shop.open_web();
    shop.server().serve_echo(9_000);
    shop.client.serve_echo(9_100);
    let inbound = shop.server().connect(shop.client.at(9_100));
    inbound.unwrap().echo("before the policy").unwrap();
    let from = json!({ "serviceAccounts": ["somebody-else"] });
    let target = ("Workload", shop.client.name());
    shop.node.apply(&[policy("in", "Allow", target, &from)]);
    assert_eq!(shop.client.get(WEB).status, 200);

    assert_eq!(shop.node.agent().stop(), 0);
    let outbound = "127.0.0.1:15001".parse().unwrap();
    let taken = shop.client.serve_at(ServerKind::Echo, outbound);
    let resolver = "127.0.0.1:15053".parse().unwrap();
    let taken_too = shop.client.serve_at(ServerKind::Echo, resolver);
    shop.node.start_agent();
    assert_eq!(shop.reason("client", "Enrolled"), "ListenFailed");
    assert_eq!(
        shop.client.connect(web()).unwrap_err().kind,
        "ConnectionRefused"
    );
    assert!(shop.client.connect(shop.server().at(9_000)).is_err());
    assert!(shop.server().connect(shop.client.at(9_100)).is_err());

    taken.stop();
    assert_eventually!(shop.reason("client", "Enrolled") == "Enrolled");
    assert_eq!(shop.client.get(WEB).status, 200);
    assert!(shop.client.connect(shop.server().at(9_000)).is_err());
    assert!(shop.server().connect(shop.client.at(9_100)).is_err());

    assert_eq!(shop.reason("client", "NamesAnswered"), "ListenFailed");
    taken_too.stop();
    assert_eventually!(shop.reason("client", "NamesAnswered") == "NamesAnswered");
    let resolver = shop.server().at(53);
    let answer = shop
        .client
        .ask(resolver, "web.shop.mesh.", 1, How::Connected);
    assert_eq!(answer.unwrap().records, ["240.240.0.10"]);

    shop.node.set_flags(&["--dns", "off"]);
    shop.node.restart_agent();
    assert_eventually!(shop.reason("client", "NamesAnswered") == "Disabled");
}

#[test]
fn an_agent_that_cannot_be_hooked_refuses_to_start() {
    let Some(node) = Node::start_with(&[]) else {
        return;
    };
    let mut command = node.command(&["run", "--config", "/nonexistent/mesh.yaml"]);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("/nonexistent/mesh.yaml"), "{message}");
}

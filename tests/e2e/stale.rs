//! Connections to endpoints that are gone end, and no others do.

use std::time::Duration;

use mesh_tests::assert_eventually;
use mesh_tests::node::Node;
use mesh_tests::registry::{endpoint, object, service};
use serde_json::json;

use crate::shop::CACHE_PORT;

#[test]
fn only_direct_connections_to_an_endpoint_that_is_gone_are_reset() {
    let Some(node) = Node::start_with(&["--stale-grace", "5s"]) else {
        return;
    };
    let client = node.pod("client");
    let [first, second] = ["first", "second"].map(|name| node.pod(name));
    for server in [&first, &second] {
        server.serve_echo(CACHE_PORT);
    }
    node.enrol(&client);
    let leaving = endpoint("cache-1", "cache", first.v4(), "tcp", CACHE_PORT);
    let ports = json!([{ "name": "tcp", "port": 6_379, "protocol": "tcp" }]);
    let proxied = json!({ "addresses": ["240.240.0.21"], "ports": ports, "mode": "proxy" });
    node.apply(&[
        service("cache", &["240.240.0.20"], "tcp", 6_379, "tcp"),
        leaving.clone(),
        object("Service", "relay", &proxied),
        endpoint("relay-1", "relay", first.v4(), "tcp", CACHE_PORT),
    ]);
    let dial = |address: &str| client.connect(address.parse::<std::net::SocketAddr>().unwrap());
    let direct = dial("240.240.0.20:6379").unwrap();
    let upstream = dial("240.240.0.21:6379").unwrap();
    let passed = client.connect(first.at(CACHE_PORT)).unwrap();
    node.apply(&[endpoint("cache-2", "cache", second.v4(), "tcp", CACHE_PORT)]);
    node.delete(&leaving);
    let other = dial("240.240.0.20:6379").unwrap();
    direct.echo("it has its time of grace").unwrap();

    assert_eventually!(
        node.metrics()
            .sum("mesh_stale_connections_reset_total", &[])
            >= 1.0,
        Duration::from_secs(20)
    );

    assert!(direct.echo("it is gone").is_err());
    for kept in [&upstream, &passed, &other] {
        kept.echo("still there").unwrap();
    }
    let resets = node
        .metrics()
        .sum("mesh_stale_connections_reset_total", &[]);
    assert!((resets - 1.0).abs() < f64::EPSILON, "{resets}");
}

#[test]
fn what_was_left_while_no_agent_ran_is_reset_by_the_next() {
    let Some(mut node) = Node::start_with(&["--stale-grace", "5s"]) else {
        return;
    };
    let client = node.pod("client");
    let server = node.pod("server");
    server.serve_echo(CACHE_PORT);
    node.enrol(&client);
    let leaving = endpoint("cache-1", "cache", server.v4(), "tcp", CACHE_PORT);
    node.apply(&[
        service("cache", &["240.240.0.20"], "tcp", 6_379, "tcp"),
        leaving.clone(),
    ]);
    let cache: std::net::SocketAddr = "240.240.0.20:6379".parse().unwrap();
    let direct = client.connect(cache).unwrap();
    direct.echo("it is there").unwrap();
    node.delete(&leaving);
    node.agent().kill();
    direct.echo("nobody looks").unwrap();
    node.start_agent();
    mesh_tests::eventually::eventually("the connection is reset", Duration::from_mins(1), || {
        direct.echo("still there").is_err().then_some(())
    });
}

#[test]
fn connections_to_the_old_address_of_an_endpoint_that_moved_are_reset() {
    let Some(node) = Node::start_with(&["--stale-grace", "1s"]) else {
        return;
    };
    let client = node.pod("client");
    let [first, second] = ["first", "second"].map(|name| node.pod(name));
    for server in [&first, &second] {
        server.serve_echo(CACHE_PORT);
    }
    node.enrol(&client);
    node.apply(&[
        service("cache", &["240.240.0.20"], "tcp", 6_379, "tcp"),
        endpoint("cache-1", "cache", first.v4(), "tcp", CACHE_PORT),
    ]);
    let cache: std::net::SocketAddr = "240.240.0.20:6379".parse().unwrap();
    let old = client.connect(cache).unwrap();
    old.echo("it is there").unwrap();
    node.apply(&[endpoint("cache-1", "cache", second.v4(), "tcp", CACHE_PORT)]);
    let new = client.connect(cache).unwrap();
    mesh_tests::eventually::eventually(
        "the old connection is reset",
        Duration::from_secs(20),
        || old.echo("still there").is_err().then_some(()),
    );
    new.echo("it has moved").unwrap();
}

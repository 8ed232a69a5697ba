//! Opaque TCP through the proxy: bytes in order, half-close, long lives, refusals, backpressure.

use std::net::SocketAddr;

use mesh_tests::assert_eventually;
use mesh_tests::protocol::{ServerKind, Task};
use mesh_tests::registry::{endpoint, service, with};
use serde_json::json;

use crate::shop::Shop;

/// A service through the proxy with one server of a kind.
fn open(kind: ServerKind) -> Option<(Shop, SocketAddr)> {
    let shop = Shop::open(1)?;
    shop.server().serve(kind, 7_000);
    let opaque = service("opaque", &["240.240.0.50"], "tcp", 70, "tcp");
    shop.node.apply(&[
        with(opaque, &json!({ "mode": "proxy" })),
        endpoint("opaque-1", "opaque", shop.server().v4(), "tcp", 7_000),
    ]);
    Some((shop, "240.240.0.50:70".parse().unwrap()))
}

#[test]
fn bytes_arrive_as_sent_in_both_directions() {
    let Some((shop, address)) = open(ServerKind::Echo) else {
        return;
    };
    let echo = Task::Echo {
        address,
        bytes: 20_000_000,
        chunk: 10_000,
    };
    shop.client.measure(echo).unwrap();
    assert_eventually!(shop.coverage()["captured"] == 1);
}

#[test]
fn closing_one_half_leaves_the_other_open() {
    let Some((shop, address)) = open(ServerKind::Sink) else {
        return;
    };
    let upload = Task::Upload {
        address,
        bytes: 20_000_000,
        chunk: 65_536,
    };
    shop.client.measure(upload).unwrap();
}

#[test]
fn a_server_that_never_reads_blocks_the_sender() {
    let Some((mut shop, address)) = open(ServerKind::Deaf) else {
        return;
    };
    let idle = shop.node.agent().resident_bytes();
    let accepted = shop.client.fill(address, 1 << 30).unwrap();
    assert!(accepted < 64 << 20, "{accepted}");
    assert!(shop.node.agent().resident_bytes() < idle + (64 << 20));
}

#[test]
fn a_reset_is_passed_on() {
    let Some((shop, address)) = open(ServerKind::Resetting) else {
        return;
    };
    // The reset may be there before the client has looked at its new connection.
    let conn = shop.client.connect(address);
    let received = conn.and_then(|conn| conn.receive(1));
    let failure = received.expect_err("a reset, not an orderly end");
    assert_eq!(failure.kind, "ConnectionReset", "{failure:?}");
}

#[test]
fn a_connection_outlives_changes_of_the_registry() {
    let Some((shop, address)) = open(ServerKind::Echo) else {
        return;
    };
    let conn = shop.client.connect(address).unwrap();
    conn.echo("before").unwrap();
    let plain = endpoint("opaque-1", "opaque", shop.server().v4(), "tcp", 7_000);
    shop.node
        .apply(&[with(plain, &json!({ "draining": true }))]);
    conn.echo("after").unwrap();
    assert_eq!(conn.peer(), address);
}

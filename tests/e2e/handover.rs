//! The original destination and the caller's identity are handed over without a miss, with packets spread over all
//! processors.

use mesh_tests::assert_eventually;
use mesh_tests::registry::{endpoint, policy, service, with};
use serde_json::json;

use crate::shop::{CACHE_PORT, Shop, cache};

const CONNECTIONS: u64 = 20_000;

#[test]
fn no_proxied_connection_is_missed() {
    let Some(shop) = Shop::open(1) else { return };
    shop.spread_packets();
    shop.server().serve_echo(CACHE_PORT);
    let opaque = service("opaque", &["240.240.0.50"], "tcp", 70, "tcp");
    shop.node.apply(&[
        with(opaque, &json!({ "mode": "proxy" })),
        endpoint("opaque-1", "opaque", shop.server().v4(), "tcp", CACHE_PORT),
    ]);
    let address = "240.240.0.50:70".parse().unwrap();
    let report = shop.client.many_connects(address, CONNECTIONS, 4);
    assert_eq!(
        (report.succeeded, report.failed),
        (CONNECTIONS, 0),
        "{report:?}"
    );
    assert_eventually!(shop.coverage()["captured"] == CONNECTIONS);
    let refused = shop
        .node
        .metrics()
        .sum("mesh_refused_connections_total", &[]);
    assert!(refused.abs() < 0.5, "{refused} without a destination");
}

#[test]
fn no_direct_connection_between_two_workloads_is_missed() {
    let Some(shop) = Shop::open(1) else { return };
    shop.spread_packets();
    shop.node.enrol(shop.server());
    shop.open_cache();
    // Every connection is authorized at the destination by the identity that was handed over.
    let only_client = json!({ "serviceAccounts": ["client"] });
    shop.node.apply(&[policy(
        "server",
        "Allow",
        ("Workload", shop.server().name()),
        &only_client,
    )]);
    let report = shop.client.many_connects(cache(), CONNECTIONS, 4);
    assert_eq!(
        (report.succeeded, report.failed),
        (CONNECTIONS, 0),
        "{report:?}"
    );
    assert_eventually!(shop.coverage()["direct"] == CONNECTIONS);
}

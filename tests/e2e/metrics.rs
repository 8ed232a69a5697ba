//! What the metrics say after known traffic.

use mesh_tests::assert_eventually;
use serde_json::json;

use crate::shop::{Shop, WEB, cache};

const CLIENT: [(&str, &str); 2] = [("workload_namespace", "shop"), ("workload", "client")];

#[test]
fn connections_are_counted_by_workload_verdict_and_reason() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    shop.open_cache();
    for _ in 0..3 {
        assert_eq!(shop.client.get(WEB).status, 200);
        shop.client.connect(cache()).unwrap().echo("hello").unwrap();
    }
    let count = |verdict: &str| {
        let [namespace, workload] = CLIENT;
        let labels = [
            namespace,
            workload,
            ("verdict", verdict),
            ("reason", "service"),
        ];
        shop.node.metrics().sum("mesh_connections_total", &labels)
    };
    assert_eventually!((count("proxy") - 3.0).abs() < 0.5);
    assert_eventually!((count("direct") - 3.0).abs() < 0.5);
}

#[test]
fn requests_have_the_series_of_istio() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    for _ in 0..3 {
        assert_eq!(shop.client.get(WEB).status, 200);
    }
    let labels = [
        ("reporter", "source"),
        ("response_code", "200"),
        ("source_workload", "client"),
        ("source_workload_namespace", "shop"),
        ("destination_service_name", "web"),
        ("destination_service_namespace", "shop"),
        ("request_protocol", "http"),
    ];
    let requests = || shop.node.metrics().sum("istio_requests_total", &labels);
    assert_eventually!((requests() - 3.0).abs() < 0.5);
    let metrics = shop.node.metrics();
    assert!(metrics.has("istio_request_duration_milliseconds_bucket", &labels));
}

#[test]
fn direct_connections_have_the_tcp_series_of_istio() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let conn = shop.client.connect(cache()).unwrap();
    conn.echo("hello").unwrap();
    conn.close();
    let labels = [
        ("source_workload", "client"),
        ("destination_service_name", "cache"),
    ];
    let sum = |family: &str| shop.node.metrics().sum(family, &labels);
    assert_eventually!(sum("istio_tcp_connections_opened_total") >= 1.0);
    assert_eventually!(sum("istio_tcp_connections_closed_total") >= 1.0);
    assert_eventually!(sum("istio_tcp_sent_bytes_total") >= 5.0);
}

#[test]
fn maps_build_and_process_are_shown() {
    let Some(shop) = Shop::open(1) else { return };
    let metrics = shop.node.metrics();
    for family in [
        "mesh_map_entries",
        "mesh_map_capacity",
        "mesh_stats_lost_total",
        "mesh_build_info",
    ] {
        assert!(metrics.has(family, &[]), "{family}: {}", metrics.text());
    }
    for (name, _) in [
        ("process_resident_memory_bytes", 0),
        ("process_open_fds", 0),
    ] {
        assert!(metrics.sum(name, &[]) > 0.0, "{name}: {}", metrics.text());
    }
}

#[test]
fn refusals_do_not_crowd_out_the_final_values_of_connections() {
    let Some(mut shop) = Shop::open_with(1, &json!({ "egress": "locked" })) else {
        return;
    };
    shop.open_cache();
    shop.node.agent().freeze();
    // More than there is room for.
    let refused = shop
        .client
        .many_connects("192.0.2.1:9".parse().unwrap(), 10_000, 2);
    assert_eq!(refused.failed, 10_000, "{refused:?}");
    let conn = shop.client.connect(cache()).unwrap();
    conn.echo("hello").unwrap();
    conn.finish_sending().unwrap();
    assert_eq!(conn.receive(1).unwrap(), "");
    shop.node.agent().thaw();
    assert_eventually!({
        let list = shop.node.api().get("/api/v1/connections");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().any(|item| item["closed"] == true)
    });
    let lost = shop.node.metrics().sum("mesh_events_lost_total", &[]);
    assert!(lost > 1_000.0, "{lost}");
}

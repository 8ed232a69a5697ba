//! Tests of what a scrape shows.

use std::sync::Arc;

use mesh_common::names::map;
use mesh_common::stats::{Counter, StatKey};
use mesh_common::verdict::Reason;
use serde_json::json;

use super::{Source, register};
use crate::metrics::Registry;
use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::report::MapReport;
use crate::traffic::fixture::Fixture;

struct Fixed {
    snapshot: Arc<Snapshot>,
    stats: Vec<(StatKey, u64)>,
    open: Vec<(u32, u64)>,
}

impl Source for Fixed {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    fn stats(&self) -> Vec<(StatKey, u64)> {
        self.stats.clone()
    }

    fn open_connections(&self) -> Vec<(u32, u64)> {
        self.open.clone()
    }

    fn maps(&self) -> Vec<MapReport> {
        vec![MapReport {
            name: map::SLOTS.to_owned(),
            entries: 5,
            capacity: 8,
        }]
    }
}

fn stat(subject: u32, counter: Counter, reason: Reason, count: u64) -> (StatKey, u64) {
    let key = StatKey {
        subject,
        counter: counter as u16,
        reason: reason as u16,
    };
    (key, count)
}

#[test]
fn a_scrape_shows_verdicts_acceleration_and_maps() {
    let snapshot = Fixture::default()
        .workload("client", &json!({"netns": "/n"}))
        .service(
            "web",
            &json!({"ports": [{"name": "http", "port": 80, "protocol": "http"}]}),
        )
        .snapshot();
    let client = snapshot
        .ids
        .number(&Subject::Workload(ObjectKey::new("shop", "client")));
    let web = snapshot
        .ids
        .number(&Subject::Service(ObjectKey::new("shop", "web")));
    let source = Fixed {
        snapshot: Arc::new(snapshot),
        stats: vec![
            stat(client, Counter::Proxy, Reason::Service, 5),
            stat(client, Counter::Deny, Reason::Policy, 2),
            stat(client, Counter::Bypass, Reason::NoVerdict, 3),
            stat(9_999, Counter::Pass, Reason::NoService, 7),
            stat(web, Counter::AcceleratedBytes, Reason::None, 100),
            stat(9_999, Counter::AcceleratedBytes, Reason::None, 11),
            stat(web, Counter::AccelerationFallback, Reason::PeerFull, 1),
            stat(client, Counter::EventLost, Reason::None, 1),
            stat(0, Counter::EventLost, Reason::None, 1),
            (StatKey::LOST, 4),
        ],
        open: Vec::new(),
    };
    let mut registry = Registry::new();
    let metrics = register(&mut registry, source);
    metrics.count_write(map::SLOTS);
    metrics.count_write_error(map::SLOTS);
    let text = registry.encode().unwrap();
    for line in [
        r#"mesh_connections_total{workload_namespace="shop",workload="client",verdict="proxy",reason="service"} 5"#,
        r#"mesh_connections_total{workload_namespace="shop",workload="client",verdict="deny",reason="policy"} 2"#,
        r#"mesh_bypassed_total{workload_namespace="shop",workload="client",reason="no-verdict"} 3"#,
        r#"mesh_accelerated_bytes_total{service_namespace="shop",service="web"} 100"#,
        r#"mesh_accelerated_bytes_total{service_namespace="unknown",service="unknown"} 11"#,
        r#"mesh_acceleration_fallback_total{service_namespace="shop",service="web",reason="peer-full"} 1"#,
        "mesh_events_lost_total 2",
        "mesh_stats_lost_total 4",
        r#"mesh_map_entries{map="SLOTS"} 5"#,
        r#"mesh_map_capacity{map="SLOTS"} 8"#,
        r#"mesh_map_writes_total{map="SLOTS"} 1"#,
        r#"mesh_map_write_errors_total{map="SLOTS"} 1"#,
        "# TYPE mesh_accelerated_messages counter",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis not in\n{text}"
        );
    }
    assert!(
        !text.contains("no-service"),
        "a workload that is gone has no series"
    );
}

#[test]
fn what_no_workload_was_asked_for_is_counted_too() {
    let snapshot = Fixture::default()
        .workload("server", &json!({"netns": "/n"}))
        .snapshot();
    let server = Subject::Workload(ObjectKey::new("shop", "server"));
    let server = snapshot.ids.number(&server);
    let source = Fixed {
        snapshot: Arc::new(snapshot),
        stats: vec![
            stat(server, Counter::InboundDeny, Reason::Policy, 6),
            stat(0, Counter::InboundDeny, Reason::Policy, 2),
            stat(0, Counter::AuditDeny, Reason::Policy, 3),
            stat(9_999, Counter::InboundDeny, Reason::Policy, 7),
        ],
        open: Vec::new(),
    };
    let mut registry = Registry::new();
    register(&mut registry, source);
    let text = registry.encode().unwrap();
    let denied = text.lines().filter(|line| line.contains("_denied_total"));
    assert_eq!(
        denied.collect::<Vec<_>>(),
        [
            r#"mesh_audit_denied_total{workload_namespace="unknown",workload="unknown",reason="policy"} 3"#,
            r#"mesh_inbound_denied_total{workload_namespace="shop",workload="server",reason="policy"} 6"#,
            r#"mesh_inbound_denied_total{workload_namespace="unknown",workload="unknown",reason="policy"} 2"#,
        ]
    );
}

#[test]
fn a_scrape_shows_the_open_connections_of_every_endpoint_over_its_ports() {
    let spec = json!({"service": "web", "address": "10.0.0.1"});
    let snapshot = Fixture::default()
        .endpoint("busy", &["http", "tls"], &spec)
        .endpoint("idle", &["http"], &spec)
        .snapshot();
    let number = |endpoint: &str, port: &str| {
        let key = ObjectKey::new("shop", endpoint);
        let subject = Subject::Endpoint(key, port.to_owned());
        snapshot.ids.number(&subject)
    };
    let open = vec![
        (number("busy", "http"), 2),
        (number("busy", "tls"), 3),
        (9_999, 7),
    ];
    let source = Fixed {
        snapshot: Arc::new(snapshot),
        stats: Vec::new(),
        open,
    };
    let mut registry = Registry::new();
    register(&mut registry, source);
    let text = registry.encode().unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("mesh_endpoint_"));
    assert_eq!(
        lines.collect::<Vec<_>>(),
        [
            r#"mesh_endpoint_open_connections{namespace="shop",service="web",endpoint="busy"} 5"#,
            r#"mesh_endpoint_open_connections{namespace="shop",service="web",endpoint="idle"} 0"#,
        ]
    );
}

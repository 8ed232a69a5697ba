//! Tests of the way from the kernel's bytes to records, lines and the ring of closed connections.

use std::sync::Arc;

use mesh_common::event::{Event, Kind};
use mesh_common::verdict::{Reason, Verdict};
use serde_json::json;

use super::{ClosedConnections, Format, MAX_CLOSED, Reader, Record};
use crate::ebpf::numbers::Numbers;
use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::traffic::fixture::Fixture;

fn node() -> Snapshot {
    Fixture::default()
        .service("web", &json!({"addresses": ["240.240.0.1"], "ports": [{"name": "main", "port": 80, "protocol": "tcp"}]}))
        .workload("client", &json!({"netns": "/n", "addresses": ["10.0.0.2"], "serviceAccount": "robot"}))
        .workload("server", &json!({"netns": "/n", "addresses": ["10.0.0.3"]}))
        .snapshot()
}

fn event(snapshot: &Snapshot, kind: Kind, verdict: Verdict) -> Event {
    let address = |text: &str| text.parse::<std::net::SocketAddr>().unwrap().into();
    let key = |name| ObjectKey::new("shop", name);
    Event {
        kind: kind as u8,
        verdict: verdict as u8,
        reason: Reason::Service as u8,
        workload: snapshot.ids.number(&Subject::Workload(key("client"))),
        service: snapshot.ids.number(&Subject::Service(key("web"))),
        source: address("10.0.0.2:40000"),
        original: address("240.240.0.1:80"),
        destination: address("10.0.0.3:8080"),
        pid: 42,
        time_ns: 5_000_000,
        started_ns: 2_000_000,
        bytes_sent: 100,
        bytes_received: 200,
        ..Event::default()
    }
}

fn bytes(event: &Event) -> &[u8] {
    // SAFETY: an event has no padding; the slice lives no longer than the event.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(event).cast(), size_of::<Event>()) }
}

#[test]
fn a_closed_direct_connection_is_one_line_and_is_remembered() {
    let snapshot = Arc::new(node());
    let event = event(&snapshot, Kind::Closed, Verdict::Direct);
    let closed = Arc::new(ClosedConnections::default());
    let mut lines = Vec::new();
    let mut reader = Reader {
        snapshot: || Arc::clone(&snapshot),
        numbers: Numbers::default(),
        closed: Arc::clone(&closed),
        sink: |record: &Record| {
            assert!(record.is_logged());
            lines.push(record.line(Format::Json, "now"));
            lines.push(record.line(Format::Text, "now"));
        },
    };
    reader.refresh();
    reader.take(bytes(&event));
    reader.take(&[1, 2, 3]);
    assert_eq!(
        lines,
        [
            r#"{"time":"now","event":"closed","src.addr":"10.0.0.2:40000","src.workload":"client","src.namespace":"shop","src.identity":"shop/robot","dst.addr":"10.0.0.3:8080","dst.workload":"server","dst.namespace":"shop","dst.identity":"shop/default","dst.service":"shop/web","original":"240.240.0.1:80","direction":"outbound","verdict":"direct","reason":"service","pid":42,"bytes_sent":100,"bytes_recv":200,"duration":"3ms","rtt_micros":0,"retransmits":0}"#,
            "time=now event=closed src.addr=10.0.0.2:40000 src.workload=client src.namespace=shop src.identity=shop/robot dst.addr=10.0.0.3:8080 dst.workload=server dst.namespace=shop dst.identity=shop/default dst.service=shop/web original=240.240.0.1:80 direction=outbound verdict=direct reason=service pid=42 bytes_sent=100 bytes_recv=200 duration=3ms rtt_micros=0 retransmits=0",
        ]
    );
    let list = closed.list();
    assert_eq!(list.len(), 1);
    assert!(list[0].closed && list[0].protocol == "tcp");
    assert_eq!(list[0].service.as_deref(), Some("shop/web"));
}

#[test]
fn what_the_proxy_carried_is_logged_by_the_proxy() {
    let snapshot = Arc::new(node());
    let numbers = Numbers::of(Arc::clone(&snapshot));
    let record = |kind, verdict| Record::new(&event(&snapshot, kind, verdict), &numbers).unwrap();
    assert!(!record(Kind::Closed, Verdict::Proxy).is_logged());
    assert!(!record(Kind::Closed, Verdict::Pass).is_logged());
    assert!(record(Kind::Denied, Verdict::Deny).is_logged());
    let proxied = record(Kind::Closed, Verdict::Proxy);
    assert_eq!(proxied.destination.address, proxied.original);
}

#[test]
fn a_refusal_names_the_workload_and_says_why() {
    let snapshot = Arc::new(node());
    let mut event = event(&snapshot, Kind::Denied, Verdict::Deny);
    event.reason = Reason::Policy as u8;
    event.service = 0;
    event.destination = mesh_common::address::SocketAddress::default();
    event.source = "0.0.0.0:0".parse::<std::net::SocketAddr>().unwrap().into();
    let record = Record::new(&event, &Numbers::of(Arc::clone(&snapshot))).unwrap();
    let line = record.line(Format::Text, "now");
    assert!(
        line.contains("src.addr=10.0.0.2:0 src.workload=client"),
        "{line}"
    );
    assert!(
        line.contains("dst.addr=240.240.0.1:80 dst.service=shop/web"),
        "{line}"
    );
    assert!(line.contains("verdict=deny reason=policy"), "{line}");
    assert!(
        line.ends_with(r#"error="connection refused by the mesh""#),
        "{line}"
    );
}

#[test]
fn the_ring_of_closed_connections_is_bounded_and_newest_first() {
    let snapshot = Arc::new(node());
    let numbers = Numbers::of(Arc::clone(&snapshot));
    let closed = ClosedConnections::default();
    for count in 0..=MAX_CLOSED as u64 {
        let mut event = event(&snapshot, Kind::Closed, Verdict::Direct);
        event.bytes_sent = count;
        closed.push(Record::new(&event, &numbers).unwrap().connection(&numbers));
    }
    let list = closed.list();
    assert_eq!(list.len(), MAX_CLOSED);
    assert_eq!(list[0].bytes_sent, MAX_CLOSED as u64);
    assert_eq!(list[MAX_CLOSED - 1].bytes_sent, 1);
}

//! Tests of the join.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::conn::{Conn, Direction};
use mesh_common::redirect::Redirect;
use mesh_common::verdict::Verdict;
use serde_json::json;

use super::join;
use crate::ebpf::inet_diag::{TcpInfo, TcpSocket, state};
use crate::ebpf::numbers::Numbers;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::traffic::fixture::Fixture;

fn numbers() -> Numbers {
    let fixture = Fixture::default()
        .service(
            "web",
            &json!({"addresses": ["240.240.0.1"], "ports": [{"name": "http", "port": 80, "protocol": "http2"}]}),
        )
        .workload("client", &json!({"netns": "/n", "addresses": ["10.0.0.2"]}));
    Numbers::of(Arc::new(fixture.snapshot()))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn socket(numbers: &Numbers, cookie: u64, verdict: Verdict) -> TcpSocket {
    let ids = &numbers.snapshot().ids;
    TcpSocket {
        family: 2,
        id: [0; 48],
        state: state::ESTABLISHED,
        local: address("10.0.0.2:40000"),
        remote: address("127.0.0.1:15001"),
        cookie,
        cgroup: 1,
        info: TcpInfo {
            bytes_sent: 10,
            bytes_received: 20,
            rtt_micros: 30,
            retransmits: 1,
        },
        conn: Some(Conn {
            original: address("240.240.0.1:80").into(),
            verdict: verdict as u8,
            direction: Direction::Dialled as u8,
            workload: ids.number(&Subject::Workload(ObjectKey::new("shop", "client"))),
            service: ids.number(&Subject::Service(ObjectKey::new("shop", "web"))),
            ..Conn::default()
        }),
        redirect: None,
    }
}

#[test]
fn a_connection_carries_the_names_of_its_objects() {
    let numbers = numbers();
    let found = join(&numbers, &[socket(&numbers, 1, Verdict::Proxy)]);
    assert_eq!(found.len(), 1);
    let found = &found[0];
    assert_eq!(found.source.workload, "shop/client");
    assert_eq!(found.service.as_deref(), Some("shop/web"));
    assert_eq!(
        (found.verdict.as_str(), found.protocol.as_str()),
        ("proxy", "http2")
    );
    assert_eq!(found.destination, address("240.240.0.1:80"));
    assert_eq!((found.bytes_sent, found.bytes_received), (10, 20));
    assert!(!found.accelerated);
}

#[test]
fn redirected_bytes_count_in_both_directions() {
    let numbers = numbers();
    let redirect = |bytes, cookie| {
        Some(Redirect {
            bytes,
            peer: cookie,
            ..Redirect::default()
        })
    };
    let mut caller = socket(&numbers, 1, Verdict::Direct);
    caller.redirect = redirect(1_000, 2);
    let mut callee = socket(&numbers, 2, Verdict::Direct);
    callee.redirect = redirect(5_000, 1);
    if let Some(conn) = &mut callee.conn {
        conn.direction = Direction::Accepted as u8;
    }
    let found = join(&numbers, &[callee, caller]);
    assert_eq!(found.len(), 1, "an accepted socket is the other end");
    assert_eq!(
        (found[0].bytes_sent, found[0].bytes_received),
        (1_010, 5_020)
    );
    assert!(found[0].accelerated);
    assert_eq!(found[0].destination, address("127.0.0.1:15001"));
}

#[test]
fn the_agents_own_sockets_are_not_connections_of_workloads() {
    let numbers = numbers();
    let mut own = socket(&numbers, 1, Verdict::Direct);
    if let Some(conn) = &mut own.conn {
        conn.flags = Conn::OWN;
    }
    assert!(join(&numbers, &[own]).is_empty());
}

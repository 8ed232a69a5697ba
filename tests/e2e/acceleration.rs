//! Acceleration by `sk_msg`: the same bytes in the same order, bounded, with half-close, and counted.

use std::net::SocketAddr;
use std::process::Command;

use mesh_tests::assert_eventually;
use mesh_tests::eventually::DEADLINE;
use mesh_tests::protocol::{ServerKind, Task};
use serde_json::json;

use crate::shop::{Shop, cache, cache_v6};

/// A shop whose cache is direct; client and server ask for acceleration, or do not.
fn open(kind: &ServerKind, is_accelerated: bool) -> Option<Shop> {
    let fields = json!({ "acceleration": is_accelerated });
    let shop = Shop::open_with(1, &fields)?;
    shop.node.enrol_with(shop.server(), &fields);
    shop.open_cache_with(kind);
    Some(shop)
}

fn accelerated_bytes(shop: &Shop) -> f64 {
    shop.node.metrics().sum("mesh_accelerated_bytes_total", &[])
}

/// Whether the node says that acceleration is on; says why where it is not. Where the kernel should be able to, it is.
fn is_enabled(shop: &Shop) -> bool {
    let status = shop.node.api().get("/api/v1/status");
    let enabled = status["acceleration"]["enabled"] == true;
    assert!(
        enabled
            || status["acceleration"]["reason"]
                .as_str()
                .is_some_and(|why| !why.is_empty() && !why.contains("self-test")),
        "{status}"
    );
    enabled
}

#[test]
fn bytes_arrive_as_sent_with_and_without_it() {
    for is_accelerated in [false, true] {
        for address in [cache(), cache_v6()] {
            let Some(shop) = open(&ServerKind::Echo, is_accelerated) else {
                return;
            };
            for chunk in [100, 10_000, 300_000] {
                let bytes = 20_000 * chunk as u64 / 100;
                let bytes = bytes.min(20_000_000);
                let echo = Task::Echo {
                    address,
                    bytes,
                    chunk,
                };
                shop.client.measure(echo).unwrap();
            }
            if is_accelerated && is_enabled(&shop) {
                assert_eventually!(accelerated_bytes(&shop) > 0.0, DEADLINE);
            } else {
                assert!(accelerated_bytes(&shop) < 0.5);
            }
        }
    }
}

#[test]
fn many_connections_keep_their_bytes_in_order_with_packets_spread() {
    let Some(shop) = open(&ServerKind::Echo, true) else {
        return;
    };
    shop.spread_packets();
    let report = shop.client.many_connects(cache(), 8_000, 4);
    assert_eq!((report.succeeded, report.failed), (8_000, 0), "{report:?}");
    for _ in 0..20 {
        let echo = Task::Echo {
            address: cache(),
            bytes: 200_000,
            chunk: 997,
        };
        shop.client.measure(echo).unwrap();
    }
}

#[test]
fn a_receiver_that_never_reads_blocks_the_sender() {
    let Some(shop) = open(&ServerKind::Deaf, true) else {
        return;
    };
    let accepted = shop.client.fill(cache(), 1 << 30).unwrap();
    assert!(accepted <= 4 << 20, "{accepted}");
}

#[test]
fn closing_one_half_leaves_the_other_open() {
    let Some(shop) = open(&ServerKind::Sink, true) else {
        return;
    };
    upload(&shop, cache(), 1_000_000);
}

#[test]
fn a_hundred_megabytes_arrive_as_sent() {
    let Some(shop) = open(&ServerKind::Sink, true) else {
        return;
    };
    upload(&shop, cache(), 100_000_000);
}

#[track_caller]
fn upload(shop: &Shop, address: SocketAddr, bytes: u64) {
    let upload = Task::Upload {
        address,
        bytes,
        chunk: 65_536,
    };
    shop.client.measure(upload).unwrap();
}

#[test]
fn a_killed_agent_loses_no_byte_of_a_direct_flow() {
    let Some(mut shop) = open(&ServerKind::Echo, true) else {
        return;
    };
    let running = shop.client.start(Task::Echo {
        address: cache(),
        bytes: 100_000_000,
        chunk: 4_000,
    });
    shop.node.agent().kill();
    let report = running.wait();
    assert_eq!(report.bytes, 100_000_000);
    shop.node.start_agent();
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
}

/// Sends two messages on a socket, the first as a call that waits for the connection: fast open without a cookie, or after
/// a `connect` that did not wait.
const EARLY: &str = r#"
import socket, sys
host, port, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with socket.socket() as it:
    first = b"first " * 1000
    if way == "fastopen":
        it.sendto(first, socket.MSG_FASTOPEN, (host, port))
    else:
        it.setblocking(False)
        it.connect_ex((host, port))
        it.setblocking(True)
        it.sendall(first)
    it.sendall(b"second")
    expected = first + b"second"
    it.settimeout(20)
    read = b""
    while len(read) < len(expected):
        more = it.recv(65536)
        if not more:
            break
        read += more
    sys.exit(0 if read == expected else f"{read[:20]!r} {read[-20:]!r} {len(read)}")
"#;

#[test]
fn what_a_call_sends_that_waits_for_the_connection_comes_first() {
    if !mesh_tests::requirements::has("python3", "python3") {
        return;
    }
    let Some(shop) = open(&ServerKind::Echo, true) else {
        return;
    };
    let (host, port) = (cache().ip().to_string(), cache().port().to_string());
    for way in ["fastopen", "later"] {
        for _ in 0..20 {
            let mut command = Command::new("python3");
            command.args(["-c", EARLY, &host, &port, way]);
            let output = shop.client.run(&mut command).unwrap();
            assert!(output.status.success(), "{way}: {output:?}");
        }
    }
}

/// Asks once, says so in a file, waits for another file, and sends a head and at once a body that does not fit behind it.
const TWO_WRITES: &str = r#"
import http.client, os, socket, sys, time
host, port, files = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def note(name):
    open(os.path.join(files, name), "w").close()
def answer():
    response = http.client.HTTPResponse(it)
    response.begin()
    response.read()
    return response.status
body = b"x" * 150 * 1024
with socket.create_connection((host, port)) as it:
    it.settimeout(15)
    it.sendall(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
    answer()
    note("asked")
    while not os.path.exists(os.path.join(files, "go")):
        time.sleep(0.01)
    it.sendall(b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: %d\r\n\r\n" % len(body))
    it.sendall(body)
    note("sent")
    status = answer()
    sys.exit(0 if status == 200 else str(status))
"#;

#[test]
fn a_body_that_comes_by_tcp_with_a_head_that_does_not_is_read() {
    let fields = json!({ "acceleration": true });
    let Some(mut shop) = Shop::open_with(1, &fields) else {
        return;
    };
    if !mesh_tests::requirements::has("python3", "python3") || !is_enabled(&shop) {
        return;
    }
    shop.open_web();
    let files = tempfile::tempdir().unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", TWO_WRITES, "240.240.0.10", "80"]);
    let mut client = shop.client.spawn(command.arg(files.path())).unwrap();
    let is_there = |name: &str| files.path().join(name).exists();
    assert_eventually!(is_there("asked"), DEADLINE);
    assert_eventually!(accelerated_bytes(&shop) > 0.0);
    let before = accelerated_bytes(&shop);
    // Both are there before it looks.
    shop.node.agent().freeze();
    std::fs::write(files.path().join("go"), "").unwrap();
    assert_eventually!(is_there("sent"));
    shop.node.agent().thaw();
    assert!(client.wait().unwrap().success());
    assert!(accelerated_bytes(&shop) > before, "the head came by TCP");
}

#[test]
fn who_did_not_ask_for_it_is_not_accelerated() {
    let fields = json!({ "acceleration": true });
    let Some(shop) = Shop::open_with(1, &fields) else {
        return;
    };
    shop.node.enrol(shop.server());
    shop.open_cache();
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
    assert!(accelerated_bytes(&shop) < 0.5, "the server did not ask");
}

#[test]
fn the_proxy_is_accelerated_towards_its_workload() {
    let Some(shop) = open(&ServerKind::Echo, true) else {
        return;
    };
    shop.open_web();
    let mut load = crate::shop::steady(true, crate::shop::web(), true);
    load.millis = 1_000;
    let report = shop.client.load(load).wait();
    assert_eq!(report.failed, 0, "{report:?}");
    if is_enabled(&shop) {
        assert_eventually!(accelerated_bytes(&shop) > 0.0);
    }
}

//! The verdict at connect: proxied, direct, passed on, refused; over IPv4, IPv6 and v4-mapped sockets.

use std::collections::BTreeSet;

use mesh_tests::assert_eventually;
use mesh_tests::pod::mapped;
use mesh_tests::protocol::ServerKind;
use mesh_tests::registry::{endpoint, policy, service, with};
use serde_json::json;

use crate::shop::{CACHE_PORT, Shop, WEB, WEB_V6, cache, cache_v6, web};

#[test]
fn a_request_of_a_pod_reaches_a_server_through_the_agent() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let answer = shop.client.get(WEB);
    assert_eq!((answer.status, answer.header("x-server")), (200, "web-1"));
    let peer = answer.json()["peer"].as_str().unwrap().to_owned();
    assert!(
        peer.starts_with(&format!("{}:", shop.client.v4())),
        "{peer}"
    );
    assert_eventually!(shop.coverage()["captured"] == 1);
}

#[test]
fn ipv6_and_mapped_sockets_take_the_same_path_as_ipv4() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    shop.open_cache();
    assert_eq!(shop.client.get(WEB_V6).status, 200);
    assert_eq!(
        shop.client.get("http://[::ffff:240.240.0.10]:80/").status,
        200
    );
    for address in [cache(), cache_v6(), mapped(cache())] {
        let conn = shop.client.connect(address).unwrap();
        conn.echo("hello").unwrap();
    }
    let conn = shop.client.connect(mapped(web())).unwrap();
    assert_eq!(conn.peer(), mapped(web()), "the address that was dialled");
    assert_eventually!(shop.coverage()["captured"] == 3);
    assert_eventually!(shop.coverage()["direct"] == 3);
}

#[test]
fn a_direct_connection_shows_the_address_that_was_dialled() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    for address in [cache(), cache_v6()] {
        let conn = shop.client.connect(address).unwrap();
        conn.echo("hello").unwrap();
        assert_eq!(conn.peer(), address);
    }
}

#[test]
fn what_is_no_service_passes() {
    let Some(shop) = Shop::open(1) else { return };
    let server = shop.server().serve_echo(9_000);
    let conn = shop.client.connect(shop.server().at(9_000)).unwrap();
    conn.echo("hello").unwrap();
    assert_eq!(conn.peer(), shop.server().at(9_000));
    assert_eq!(server.seen().connections, 1);
    assert_eventually!(shop.coverage()["passed"] == 1);
    assert_eventually!(shop.coverage()["reasons"]["no-service"] == 1);
}

#[test]
fn who_is_not_enrolled_is_left_alone() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let server = shop.server().serve_echo(9_000);
    let stranger = shop.node.pod("stranger");
    stranger
        .connect(shop.server().at(9_000))
        .unwrap()
        .echo("hello")
        .unwrap();
    assert_eq!(server.seen().connections, 1);
    assert!(
        stranger.connect(cache()).is_err(),
        "no mesh, no virtual address"
    );
}

#[test]
fn loopback_stays_inside_the_pod() {
    let Some(shop) = Shop::open(1) else { return };
    shop.client.serve_echo(9_000);
    let address = "127.0.0.1:9000".parse::<std::net::SocketAddr>().unwrap();
    shop.client.connect(address).unwrap().echo("hello").unwrap();
}

#[test]
fn the_agents_own_listener_refuses_who_dials_it() {
    let Some(shop) = Shop::open(1) else { return };
    let listener = "127.0.0.1:15001".parse::<std::net::SocketAddr>().unwrap();
    if let Ok(conn) = shop.client.connect(listener) {
        let answer = conn
            .send("GET / HTTP/1.1\r\n\r\n")
            .and_then(|()| conn.receive(1));
        assert!(answer.is_err() || answer.unwrap().is_empty());
    }
    assert_eventually!(
        shop.node
            .metrics()
            .sum("mesh_refused_connections_total", &[])
            >= 1.0
    );
}

#[test]
fn a_service_without_endpoints_refuses() {
    let Some(shop) = Shop::open(0) else { return };
    shop.node.apply(&[
        service("cache", &["240.240.0.20"], "tcp", 6_379, "tcp"),
        service("web", &["240.240.0.10"], "http", 80, "http"),
    ]);
    let failure = shop.client.connect(cache()).unwrap_err();
    assert_eq!(failure.kind, "ConnectionRefused");
    assert_eventually!(shop.coverage()["reasons"]["no-endpoint"] == 1);
    let answer = shop.client.get(WEB);
    assert_eq!(
        (answer.status, answer.header("x-mesh-error")),
        (503, "no-endpoint")
    );
}

#[test]
fn a_denied_connection_is_refused_and_counted() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    shop.open_cache();
    let from = json!({ "serviceAccounts": ["client"] });
    shop.node.apply(&[
        policy("no-web", "Deny", ("Service", "web"), &from),
        policy("no-cache", "Deny", ("Service", "cache"), &from),
    ]);
    for address in [web(), cache(), cache_v6(), shop.server().at(CACHE_PORT)] {
        let failure = shop.client.connect(address).unwrap_err();
        assert_eq!(failure.kind, "ConnectionRefused", "{address}");
    }
    assert_eventually!(shop.coverage()["denied"] == 4);
    assert_eventually!(shop.coverage()["reasons"]["policy"] == 4);
}

#[test]
fn every_endpoint_gets_its_share_of_direct_connections() {
    for balancing in ["RoundRobin", "Random", "LeastRequest"] {
        let Some(shop) = Shop::open(3) else { return };
        let fields = json!({ "balancing": balancing });
        let mut objects = vec![with(
            service("cache", &["240.240.0.20"], "tcp", 6_379, "tcp"),
            &fields,
        )];
        let mut servers = Vec::new();
        for (index, pod) in shop.servers.iter().enumerate() {
            servers.push(pod.serve_echo(CACHE_PORT));
            let name = format!("cache-{index}");
            objects.push(endpoint(&name, "cache", pod.v4(), "tcp", CACHE_PORT));
        }
        shop.node.apply(&objects);
        let report = shop.client.many_connects(cache(), 300, 4);
        assert_eq!(
            (report.succeeded, report.failed),
            (300, 0),
            "{balancing}: {report:?}"
        );
        for server in &servers {
            let connections = server.seen().connections;
            assert!(
                (50..=150).contains(&connections),
                "{balancing}: {connections}"
            );
        }
    }
}

#[test]
fn weights_and_draining_shape_the_shares() {
    let Some(shop) = Shop::open(3) else { return };
    let mut objects = vec![with(
        service("cache", &["240.240.0.20"], "tcp", 6_379, "tcp"),
        &json!({ "balancing": "RoundRobin" }),
    )];
    let mut servers = Vec::new();
    let shapes = [
        json!({ "weight": 3 }),
        json!({ "weight": 1 }),
        json!({ "draining": true }),
    ];
    for (index, (pod, shape)) in shop.servers.iter().zip(&shapes).enumerate() {
        servers.push(pod.serve_echo(CACHE_PORT));
        let name = format!("cache-{index}");
        let plain = endpoint(&name, "cache", pod.v4(), "tcp", CACHE_PORT);
        objects.push(with(plain, shape));
    }
    shop.node.apply(&objects);
    assert_eq!(shop.client.many_connects(cache(), 400, 1).failed, 0);
    let shares: Vec<u64> = servers
        .iter()
        .map(|server| server.seen().connections)
        .collect();
    assert_eq!(shares, [300, 100, 0]);
}

#[test]
fn a_service_changes_under_load_without_a_failure() {
    let Some(shop) = Shop::open(3) else { return };
    shop.open_cache();
    let load = shop.client.load(crate::shop::steady(false, cache(), false));
    for round in 0..20_u64 {
        let pod = &shop.servers[1];
        let plain = endpoint("cache-2", "cache", pod.v4(), "tcp", CACHE_PORT);
        shop.node
            .apply(&[with(plain, &json!({ "weight": round % 3 }))]);
    }
    let report = load.stop();
    assert_eq!(report.failed, 0, "{report:?}");
    assert!(report.succeeded > 100, "{report:?}");
}

#[test]
fn multipath_sockets_are_steered_like_others() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    shop.open_cache();
    let direct = shop.client.connect_multipath(cache()).unwrap();
    direct.echo("hello").unwrap();
    let proxied = shop.client.connect_multipath(web()).unwrap();
    proxied.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").unwrap();
    assert_eq!(proxied.receive(12).unwrap(), "HTTP/1.1 200");
    assert_eventually!(shop.coverage()["direct"] == 1 && shop.coverage()["captured"] == 1);
}

#[test]
fn refused_and_unroutable_connects_leave_no_open_connection() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    // The SYN to the first is not sent at all; about the second a router tells after the SYN has left. Over IPv4 it
    // would tell once a second only.
    let nowhere = "10.99.0.1".parse().unwrap();
    let forbidden = "fd99::1".parse().unwrap();
    shop.client
        .netns()
        .ip_batch("route add unreachable 10.99.0.1/32\n");
    shop.node.netns().set(&[("net/ipv6/icmp/ratelimit", "0")]);
    shop.node
        .netns()
        .ip_batch("route add prohibit fd99::1/128\n");
    shop.node.apply(&[
        service("closed", &["240.240.0.30"], "tcp", 80, "tcp"),
        endpoint("closed", "closed", shop.server().v4(), "tcp", 1),
        service("nowhere", &["240.240.0.31"], "tcp", 80, "tcp"),
        endpoint("nowhere", "nowhere", nowhere, "tcp", 1),
        service("forbidden", &["fd00:240:240::32"], "tcp", 80, "tcp"),
        endpoint("forbidden", "forbidden", forbidden, "tcp", 1),
    ]);
    let endpoints = ["cache-1", "closed", "nowhere", "forbidden"];
    let is_idle = || {
        endpoints
            .iter()
            .all(|name| open_of(&shop, name) == Some(0.0))
    };
    assert!(is_idle(), "{}", shop.node.metrics().text());
    let kept = shop.client.connect(cache()).unwrap();
    kept.echo("hello").unwrap();
    assert_eventually!(open_of(&shop, "cache-1") == Some(1.0));
    // What the router tells about a first SYN finds the socket locked by `connect`: each waits for its second.
    for (address, connections, threads) in [
        ("240.240.0.30:80", 500, 4),
        ("240.240.0.31:80", 400, 4),
        ("[fd00:240:240::32]:80", 100, 100),
    ] {
        let address = address.parse().unwrap();
        let report = shop.client.many_connects(address, connections, threads);
        assert_eq!((report.succeeded, report.failed), (0, connections));
        assert!(report.elapsed_micros < 10_000_000, "{address}: {report:?}");
    }
    assert_eq!(open_of(&shop, "cache-1"), Some(1.0), "it is still open");
    kept.close();
    assert_eventually!(is_idle());
    assert_eventually!(open_connections(&shop).is_empty());
}

/// Open connections that the metrics show for an endpoint, if they show it.
fn open_of(shop: &Shop, endpoint: &str) -> Option<f64> {
    let metrics = shop.node.metrics();
    let labels = [("namespace", "shop"), ("endpoint", endpoint)];
    let family = "mesh_endpoint_open_connections";
    metrics
        .has(family, &labels)
        .then(|| metrics.sum(family, &labels))
}

fn open_connections(shop: &Shop) -> BTreeSet<String> {
    let list = shop.node.api().get("/api/v1/connections");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .filter(|item| item["closed"] != true)
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_greeting_server_is_heard_at_once() {
    let Some(shop) = Shop::open(1) else { return };
    let line = "220 ready".to_owned();
    shop.server().serve(ServerKind::Greeting { line }, 2_500);
    for (address, mode, protocol) in [
        ("240.240.0.40", "direct", "tcp"),
        ("240.240.0.41", "proxy", "tcp"),
        ("240.240.0.42", "proxy", "auto"),
    ] {
        let name = format!("mail-{mode}-{protocol}");
        let plain = service(&name, &[address], "mail", 25, protocol);
        shop.node.apply(&[
            with(plain, &json!({ "mode": mode })),
            endpoint(&name, &name, shop.server().v4(), "mail", 2_500),
        ]);
        let address = format!("{address}:25")
            .parse::<std::net::SocketAddr>()
            .unwrap();
        let conn = shop.client.connect(address).unwrap();
        assert_eq!(conn.receive(10).unwrap(), "220 ready\n", "{name}");
        conn.echo("HELO").unwrap();
    }
}

//! Names: services from any program, everything else from the resolver that was asked, whatever asks and however.

mod programs;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::assert_eventually;
use mesh_tests::node::Node;
use mesh_tests::pod::{Pod, Server};
use mesh_tests::protocol::How;
use mesh_tests::registry::{endpoint, object, service};
use mesh_tests::resolver::{HOST, UNKNOWN};
use serde_json::json;

use crate::shop::Shop;

/// Numbers of types of records.
const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Every way to ask.
const WAYS: [How; 3] = [How::Unconnected, How::Connected, How::Tcp];

/// The resolver of the tests: the first server, at its addresses.
fn open_resolver(shop: &Shop) -> (Server<'_>, Server<'_>) {
    let pod = shop.server();
    let v4 = pod.serve_names("theirs", pod.at(53));
    (v4, pod.serve_names("theirs", pod.at_v6(53)))
}

fn open_web(shop: &Shop) {
    let addresses = ["240.240.0.10", "fd00:240:240::10"];
    shop.node
        .apply(&[service("web", &addresses, "http", 80, "http")]);
}

/// How many questions came to what.
fn asked(node: &Node, outcome: &str) -> u64 {
    let labels = [("outcome", outcome)];
    let sum = node.metrics().sum("mesh_dns_queries_total", &labels);
    sum.to_string().parse().unwrap()
}

#[test]
fn services_have_names_for_whoever_asks_whatever_resolver() {
    let Some(shop) = Shop::open(1) else { return };
    let (v4, v6) = open_resolver(&shop);
    open_web(&shop);
    for resolver in [shop.server().at(53), shop.server().at_v6(53)] {
        for how in WAYS {
            let ask = |name: &str, kind: u16| {
                let answer = shop.client.ask(resolver, name, kind, how).unwrap();
                assert_eq!(answer.from, resolver, "{how:?}: {answer:?}");
                assert_eq!(answer.code, "No Error", "{how:?}: {answer:?}");
                assert_eq!(answer.ttl, Some(5), "{how:?}: {answer:?}");
                answer.records
            };
            assert_eq!(ask("web.shop.mesh.", A), ["240.240.0.10"]);
            assert_eq!(ask("WEB.shop.mesh.", AAAA), ["fd00:240:240::10"]);
            assert_eq!(ask("web.", A), ["240.240.0.10"]);
            assert_eq!(ask("web.shop.", A), ["240.240.0.10"]);
            let port = ask("_http._tcp.web.shop.mesh.", SRV);
            assert_eq!(port, ["0 100 80 web.shop.mesh."]);
            let name = ask("10.0.240.240.in-addr.arpa.", PTR);
            assert_eq!(name, ["web.shop.mesh."]);
        }
    }
    assert_eq!(v4.seen().connections + v6.seen().connections, 0);
    assert!(asked(&shop.node, "mesh") >= 36);
    assert!(shop.coverage()["reasons"]["dns"].as_u64() >= Some(30));
}

#[test]
fn what_is_not_in_the_mesh_is_not_there_and_follows_the_registry() {
    let Some(shop) = Shop::open(1) else { return };
    let (v4, _) = open_resolver(&shop);
    let resolver = shop.server().at(53);
    let ask = || {
        shop.client
            .ask(resolver, "web.shop.mesh.", A, How::Connected)
            .unwrap()
    };
    let absent = ask();
    assert_eq!(absent.code, "Non-Existent Domain");
    assert_eq!(absent.authorities, ["mesh."]);
    open_web(&shop);
    assert_eq!(ask().records, ["240.240.0.10"]);
    let addresses = ["240.240.0.11"];
    shop.node
        .apply(&[service("web", &addresses, "http", 80, "http")]);
    assert_eq!(ask().records, ["240.240.0.11"]);
    shop.node
        .delete(&service("web", &addresses, "http", 80, "http"));
    assert_eq!(ask().code, "Non-Existent Domain");
    assert_eq!(v4.seen().connections, 0);
}

#[test]
fn everything_else_is_answered_by_the_resolver_that_was_asked() {
    let Some(shop) = Shop::open(1) else { return };
    let (v4, _) = open_resolver(&shop);
    for resolver in [shop.server().at(53), shop.server().at_v6(53)] {
        for how in WAYS {
            let ask = |name: &str, kind: u16| {
                let answer = shop.client.ask(resolver, name, kind, how).unwrap();
                assert_eq!(answer.from, resolver, "{how:?}: {answer:?}");
                answer
            };
            let host = ask("host.example.com.", A);
            assert_eq!(host.records, [HOST.to_string()], "{how:?}: {host:?}");
            assert_eq!(ask("whoami.example.com.", TXT).records, ["theirs"]);
            let missing = ask("missing.example.com.", A);
            assert_eq!(missing.code, "Non-Existent Domain");
            assert_eq!(missing.authorities, ["example.com."]);
            assert_eq!(ask("x.example.com.", UNKNOWN).records.len(), 1);
            assert_eq!(ask("other.org.", A).code, "Query Refused");
        }
    }
    let sources = v4.seen().sources;
    let client = shop.client.v4().to_string();
    assert_eq!(
        sources.keys().collect::<Vec<_>>(),
        [&client],
        "its own address"
    );
}

#[test]
fn answers_are_remembered_as_long_as_they_say() {
    let Some(shop) = Shop::open(1) else { return };
    let (v4, _) = open_resolver(&shop);
    let resolver = shop.server().at(53);
    for (name, kind, expected) in [
        ("host.example.com.", A, 1),
        ("missing.example.com.", A, 1),
        ("whoami.example.com.", TXT, 3),
    ] {
        let before = v4.seen().connections;
        for _ in 0..3 {
            let answer = shop.client.ask(resolver, name, kind, How::Connected);
            assert!(answer.unwrap().ttl.unwrap_or(0) <= 60);
        }
        assert_eq!(v4.seen().connections - before, expected, "{name}");
    }
    assert_eq!(asked(&shop.node, "cached"), 4);
    assert_eq!(asked(&shop.node, "forwarded"), 5);
}

#[test]
fn one_socket_that_asks_several_resolvers_hears_each() {
    let Some(shop) = Shop::open(3) else { return };
    let mut resolvers = Vec::new();
    for pod in &shop.servers {
        pod.serve_names(pod.name(), pod.at(53));
        resolvers.push(pod.at(53));
    }
    let answers = shop
        .client
        .ask_all(&resolvers, "whoami.example.com.", TXT, How::Unconnected)
        .unwrap();
    let mut heard: Vec<(SocketAddr, String)> = answers
        .into_iter()
        .map(|mut answer| (answer.from, answer.records.remove(0)))
        .collect();
    heard.sort();
    let servers = shop.servers.iter();
    let expected: Vec<_> = servers
        .map(|pod| (pod.at(53), pod.name().to_owned()))
        .collect();
    assert_eq!(heard, expected);
}

#[test]
fn a_resolver_on_loopback_is_asked_in_the_workloads_namespace() {
    let Some(shop) = Shop::open(1) else { return };
    open_web(&shop);
    for at in ["127.0.0.53:53", "[::1]:53"] {
        let at: SocketAddr = at.parse().unwrap();
        shop.client.serve_names("local", at);
        for how in WAYS {
            let ask = |name: &str, kind: u16| {
                let answer = shop.client.ask(at, name, kind, how).unwrap();
                assert_eq!(answer.from, at, "{how:?}: {answer:?}");
                answer.records
            };
            assert_eq!(ask("web.shop.mesh.", A), ["240.240.0.10"]);
            assert_eq!(ask("whoami.example.com.", TXT), ["local"]);
        }
    }
}

#[test]
fn a_resolver_that_is_dead_is_a_failure_and_not_silence() {
    let Some(shop) = Shop::open(1) else { return };
    open_web(&shop);
    // Nobody listens; and nobody says that nobody is there.
    let closed = shop.server().at(53);
    shop.client
        .netns()
        .ip_batch("route add blackhole 10.99.0.0/16\n");
    shop.node
        .netns()
        .ip_batch("addr add 10.98.0.1/24 dev pod1\n");
    let silent = "10.98.0.2:53".parse().unwrap();
    for resolver in [closed, silent, "10.99.0.1:53".parse().unwrap()] {
        for how in WAYS {
            let began = Instant::now();
            let answer = shop.client.ask(resolver, "host.example.com.", A, how);
            assert_eq!(answer.unwrap().code, "Server Failure", "{resolver} {how:?}");
            // Programs wait for five seconds; over TCP each is asked twice.
            let questions = if how == How::Tcp { 2 } else { 1 };
            assert!(began.elapsed() < questions * Duration::from_secs(5));
            let answer = shop.client.ask(resolver, "web.shop.mesh.", A, how);
            assert_eq!(answer.unwrap().records, ["240.240.0.10"]);
        }
    }
    assert_eq!(asked(&shop.node, "failed"), 12);
}

#[test]
fn questions_go_where_they_are_sent_while_the_agent_is_dead() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    let pod = &shop.servers[0];
    pod.serve_names("theirs", pod.at(53));
    let resolver = pod.at(53);
    shop.node.agent().kill();
    for how in WAYS {
        let answer = shop.client.ask(resolver, "whoami.example.com.", TXT, how);
        assert_eq!(answer.unwrap().records, ["theirs"], "{how:?}");
    }
    shop.node.start_agent();
    assert_eventually!(shop.coverage()["reasons"]["agent-absent"] == 3);
    let answer = shop.client.ask(resolver, "x.shop.mesh.", A, How::Connected);
    assert_eq!(answer.unwrap().code, "Non-Existent Domain");
}

#[test]
fn names_can_be_switched_off() {
    let theirs = |node: &Node, client: &Pod, server: &Pod| {
        server.serve_names("theirs", server.at(53));
        node.apply(&[service("web", &["240.240.0.10"], "http", 80, "http")]);
        for how in WAYS {
            let answer = client.ask(server.at(53), "web.shop.mesh.", A, how);
            assert_eq!(answer.unwrap().code, "Query Refused", "{how:?}");
        }
    };
    let Some(shop) = Shop::open_with(1, &json!({ "dns": false })) else {
        return;
    };
    theirs(&shop.node, &shop.client, shop.server());
    drop(shop);
    let Some(node) = Node::start_with(&["--dns", "off"]) else {
        return;
    };
    let (client, server) = (node.pod("client"), node.pod("server"));
    node.enrol(&client);
    theirs(&node, &client, &server);
    drop((client, server));
}

#[test]
fn a_resolver_that_is_a_service_of_the_mesh_is_asked_at_an_endpoint() {
    let Some(shop) = Shop::open(1) else { return };
    let pod = shop.server();
    pod.serve_names("cluster", pod.at(5_353));
    let ports = json!([
        { "name": "dns", "port": 53, "protocol": "udp" },
        { "name": "dns-tcp", "port": 53, "protocol": "tcp" },
    ]);
    let spec = json!({ "addresses": ["240.240.0.53"], "ports": ports });
    let mut only = endpoint("dns-1", "dns", pod.v4(), "dns", 5_353);
    only["spec"]["ports"]["dns-tcp"] = json!(5_353);
    shop.node.apply(&[object("Service", "dns", &spec), only]);
    let resolver = "240.240.0.53:53".parse().unwrap();
    for how in WAYS {
        let answer = shop.client.ask(resolver, "whoami.example.com.", TXT, how);
        let answer = answer.unwrap();
        assert_eq!((answer.from, &answer.records[0][..]), (resolver, "cluster"));
    }
}

#[test]
fn the_agents_resolver_answers_nobody_who_was_not_sent_there() {
    let Some(shop) = Shop::open(1) else { return };
    open_web(&shop);
    let socket = shop.client.datagrams();
    let own = "127.0.0.1:15053".parse().unwrap();
    socket.send_to(own, "not even a question").unwrap();
    assert!(socket.receive_within(200).is_err());
    let streams = shop.client.ask(own, "web.shop.mesh.", A, How::Tcp);
    assert!(streams.is_err(), "{streams:?}");
    let refused = || shop.node.metrics().sum("mesh_dns_refused_total", &[]);
    assert_eventually!(refused() >= 2.0);
}

#[test]
fn processes_of_the_host_namespace_ask_like_others() {
    let Some(shop) = Shop::open(1) else { return };
    let (_v4, _v6) = open_resolver(&shop);
    open_web(&shop);
    let host = shop.node.host_pod("host", &shop.client);
    shop.node.enrol(&host);
    let resolver = shop.server().at(53);
    for how in WAYS {
        let answer = host.ask(resolver, "web.", A, how).unwrap();
        assert_eq!(
            (answer.from, &answer.records[0][..]),
            (resolver, "240.240.0.10")
        );
        let answer = host.ask(resolver, "whoami.example.com.", TXT, how).unwrap();
        assert_eq!(answer.records, ["theirs"], "{how:?}");
    }
}

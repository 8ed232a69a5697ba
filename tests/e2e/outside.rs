//! What lies at the edge of the mesh: services outside it, services without a virtual address, and locked egress.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_tests::assert_eventually;
use mesh_tests::eventually::eventually;
use mesh_tests::node::{Node, has_condition};
use mesh_tests::pod::Pod;
use mesh_tests::protocol::How;
use mesh_tests::registry::{endpoint, object, service, with};
use serde_json::{Value, json};

use crate::shop::Shop;

/// Numbers of types of records.
const A: u16 = 1;
const TXT: u16 = 16;
const SRV: u16 = 33;
const AXFR: u16 = 252;

/// A name is asked for again within this time, also where it was asked for while its resolver was changed.
const REFRESH: Duration = Duration::from_secs(30);

const PAY: &str = "/api/v1/namespaces/shop/endpoints/pay";

fn condition(node: &Node, path: &str, kind: &str) -> Value {
    let object = node.api().get(path);
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|it| it["type"] == kind);
    found.cloned().unwrap_or_default()
}

#[test]
fn a_service_known_by_a_name_outside_is_resolved_and_followed() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let Some(mut node) = Node::start_with(&["--resolv-conf", &path]) else {
        return;
    };
    let [client, first, second, dns] = ["client", "first", "second", "dns"].map(|it| node.pod(it));
    for pod in [&first, &second] {
        pod.serve_http(pod.name(), 8_443);
    }
    writeln!(file, "nameserver {}", dns.v4()).unwrap();
    let at = dns.at(53);
    let resolver = dns.serve_hosts("theirs", at, &[("api.example.com", first.v4())]);
    node.enrol_with(&client, &json!({ "egress": "locked" }));
    let pay = service("pay", &["240.240.0.30"], "web", 80, "http");
    let spec =
        json!({ "service": "pay", "hostname": "api.example.com", "ports": { "web": 8_443 } });
    node.apply(&[
        with(pay, &json!({ "hostnames": ["api.example.com"] })),
        object("Endpoint", "pay", &spec),
    ]);
    assert_eventually!(has_condition(&node.api().get(PAY), "Resolved"));
    node.settle();

    let answer = client
        .ask(at, "api.example.com.", A, How::Connected)
        .unwrap();
    assert_eq!(answer.records, ["240.240.0.30"]);
    let server = |client: &Pod| {
        client
            .get("http://240.240.0.30/")
            .header("x-server")
            .to_owned()
    };
    assert_eq!(server(&client), "first");
    assert!(
        client.connect(first.at(8_443)).is_err(),
        "only as a service"
    );
    let message = &condition(&node, PAY, "Resolved")["message"];
    assert_eq!(message, &first.v4().to_string());

    // It moves.
    resolver.stop();
    let moved = [("api.example.com", second.v4())];
    let resolver = dns.serve_hosts("theirs", at, &moved);
    eventually("the service has moved", REFRESH, || {
        (server(&client) == "second").then_some(())
    });

    // The last good answer stays, also over a restart of the agent.
    resolver.stop();
    let failed = || condition(&node, PAY, "Resolved")["reason"] == "ResolverFailed";
    eventually("the resolver is gone", REFRESH, || failed().then_some(()));
    assert_eq!(server(&client), "second");
    node.restart_agent();
    assert_eq!(server(&client), "second");
    let labels = [("outcome", "failed")];
    assert_eventually!(node.metrics().sum("mesh_dns_lookups_total", &labels) >= 1.0);
    node.delete(&object("Endpoint", "pay", &spec));
    assert_eventually!(client.get("http://240.240.0.30/").status == 503);
}

#[test]
fn connections_to_an_address_that_left_the_answer_go_on() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let flags = ["--resolv-conf", &path, "--stale-grace", "1s"];
    let Some(node) = Node::start_with(&flags) else {
        return;
    };
    let [client, first, second, dns] = ["client", "first", "second", "dns"].map(|it| node.pod(it));
    for pod in [&first, &second] {
        pod.serve_echo(8_443);
    }
    writeln!(file, "nameserver {}", dns.v4()).unwrap();
    let serve = |pod: &Pod| {
        let hosts = [("api.example.com", pod.v4())];
        dns.serve_hosts("theirs", dns.at(53), &hosts)
    };
    let resolver = serve(&first);
    node.enrol(&client);
    let ports = json!({ "tcp": 8_443 });
    let spec = json!({ "service": "pay", "hostname": "api.example.com", "ports": ports });
    let pattern = object("Endpoint", "pay", &spec);
    let pay = service("pay", &["240.240.0.31"], "tcp", 80, "tcp");
    node.apply(&[pay, pattern.clone()]);
    let lifecycle = |pod: &Pod| {
        let name = format!("{PAY}.{}", pod.v4().to_string().replace('.', "-"));
        let answer = node.api().call("GET", &name, &Value::Null);
        (answer.status == 200).then(|| {
            let lifecycle = answer.json()["spec"]["lifecycle"].clone();
            lifecycle.as_str().unwrap_or("ready").to_owned()
        })
    };
    let becomes = |pod: &Pod, wanted: Option<&str>| {
        let what = format!("{} is {wanted:?}", pod.name());
        eventually(&what, REFRESH, || {
            (lifecycle(pod).as_deref() == wanted).then_some(())
        });
    };
    becomes(&first, Some("ready"));
    node.settle();
    let address: SocketAddr = "240.240.0.31:80".parse().unwrap();
    let long = client.connect(address).unwrap();
    long.echo("before").unwrap();

    resolver.stop();
    let resolver = serve(&second);
    becomes(&second, Some("ready"));
    becomes(&first, Some("draining"));
    node.settle();
    let short = client.connect(address).unwrap();
    short.echo("at the second").unwrap();
    short.close();

    // The time of grace is over long before the name is asked for again.
    resolver.stop();
    let _resolver = serve(&first);
    becomes(&second, None);
    becomes(&first, Some("ready"));
    long.echo("still there").unwrap();
    node.delete(&pattern);
    assert_eventually!(long.echo("it is gone").is_err());
}

#[test]
fn a_service_outside_is_reached_by_its_own_address() {
    let Some(shop) = Shop::open(1) else { return };
    let pod = shop.server();
    pod.serve_http("bank", 8_080);
    let pod_v4 = pod.v4().to_string();
    let bank = service("bank", &[&pod_v4], "web", 8_080, "http");
    let only = endpoint("bank-1", "bank", pod.v4(), "web", 8_080);
    shop.node.apply(&[bank, only]);
    let url = format!("http://{}/", pod.at(8_080));
    assert_eq!(shop.client.get(&url).status, 200);
    let labels = [("destination_service_name", "bank")];
    let requests = || shop.node.metrics().sum("istio_requests_total", &labels);
    assert_eventually!(requests() >= 1.0);
    // Through the proxy: the policy of the service applies.
    let routes = json!({
        "parentRefs": [{ "kind": "Service", "group": "", "name": "bank" }],
        "rules": [{
            "matches": [{ "path": { "type": "PathPrefix", "value": "/old" } }],
            "filters": [{ "type": "RequestRedirect", "requestRedirect": { "statusCode": 302 } }],
        }, { "backendRefs": [{ "name": "bank", "port": 8_080 }] }],
    });
    let mut route = object("HTTPRoute", "bank", &routes);
    route["apiVersion"] = json!("gateway.networking.k8s.io/v1");
    shop.node.apply(&[route]);
    assert_eventually!(shop.client.get(&format!("{url}old")).status == 302);
}

#[test]
fn a_headless_service_is_the_endpoints_that_are_ready() {
    let Some(shop) = Shop::open_with(3, &json!({ "egress": "locked" })) else {
        return;
    };
    let plain = service("db", &[], "sql", 5_432, "tcp");
    let mut objects = vec![with(plain, &json!({ "headless": true }))];
    for pod in &shop.servers {
        pod.serve_echo(5_433);
        objects.push(endpoint(pod.name(), "db", pod.v4(), "sql", 5_433));
    }
    shop.node.apply(&objects);
    let resolver = shop.server().at(53);
    let ask = |name: &str, kind: u16| -> BTreeSet<String> {
        let answer = shop.client.ask(resolver, name, kind, How::Unconnected);
        answer.unwrap().records.into_iter().collect()
    };
    let all: BTreeSet<String> = shop.servers.iter().map(|it| it.v4().to_string()).collect();
    assert_eq!(ask("db.shop.mesh.", A), all);
    assert_eq!(ask("db.", A), all);
    let ports = ask("_sql._tcp.db.shop.mesh.", SRV);
    assert!(
        ports.contains("0 100 5433 server-1.db.shop.mesh."),
        "{ports:?}"
    );
    let one = ask("server-2.db.shop.mesh.", A);
    assert_eq!(one, BTreeSet::from([shop.servers[1].v4().to_string()]));
    // They are services of the mesh, also to who is locked in it.
    for pod in &shop.servers {
        shop.client
            .connect(pod.at(5_433))
            .unwrap()
            .echo("hello")
            .unwrap();
        assert!(shop.client.connect(pod.at(5_434)).is_err());
    }
    let leaving = with(objects[1].clone(), &json!({ "draining": true }));
    shop.node.apply(&[leaving]);
    let left = ask("db.shop.mesh.", A);
    assert!(
        left.len() == 2 && !left.contains(&shop.server().v4().to_string()),
        "{left:?}"
    );
}

#[test]
fn locked_egress_lets_out_what_is_listed_over_tcp_and_udp() {
    let Some(node) = Node::start() else { return };
    let [client, server] = ["client", "server"].map(|it| node.pod(it));
    let network = |ip: IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 24 } else { 64 });
    let exits = json!([
        { "cidr": network(server.v4()), "ports": [7_001] },
        { "cidr": network(server.v6()) },
    ]);
    let locked = json!({ "egress": "locked", "egressAllow": exits });
    node.enrol_with(&client, &locked);
    for port in [7_001, 7_002] {
        for ip in [server.v4(), server.v6()] {
            server.serve_at(
                mesh_tests::protocol::ServerKind::Echo,
                SocketAddr::new(ip, port),
            );
        }
        server.serve_datagrams("server", port);
    }
    let explain = |to: SocketAddr| node.api().explain("shop/client", &to.to_string());
    for (to, is_let_out) in [
        (server.at(7_001), true),
        (server.at_v6(7_001), true),
        (server.at_v6(7_002), true),
        (server.at(7_002), false),
    ] {
        let socket = client.datagrams_v6();
        let target = mesh_tests::pod::mapped(to);
        let reason = if is_let_out {
            client.connect(to).unwrap().echo("hello").unwrap();
            assert_eq!(socket.ask(target), "server");
            assert!(client.connect_datagrams(to).is_ok());
            "no-service"
        } else {
            assert_eq!(client.connect(to).unwrap_err().kind, "ConnectionRefused");
            let sent = socket.send_to(target, "hello");
            assert_eq!(sent.unwrap_err().kind, "ConnectionRefused");
            assert!(client.connect_datagrams(to).is_err());
            "egress-locked"
        };
        assert_eq!(explain(to)["reason"], reason, "{to}");
        let datagram = node.api().explain_datagram("shop/client", &to.to_string());
        assert_eq!(datagram["reason"], reason, "{to}");
    }
    let coverage = || node.api().coverage("shop", "client");
    assert_eventually!(coverage()["reasons"]["egress-locked"] == 3);

    // It still answers whoever asks it.
    client.serve_datagrams("client", 7_003);
    let asks = server.datagrams();
    assert_eq!(asks.ask(client.at(7_003)), "client");

    // What is let out follows the object.
    let workload = json!({ "egressAllow": [{ "cidr": network(server.v4()) }] });
    node.enrol_with(&client, &with_egress(&locked, &workload));
    client
        .connect(server.at(7_002))
        .unwrap()
        .echo("hello")
        .unwrap();
    assert!(client.connect(server.at_v6(7_002)).is_err());
}

#[test]
fn by_the_port_of_names_a_locked_workload_reaches_no_stranger() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let Some(node) = Node::start_with(&["--resolv-conf", &path]) else {
        return;
    };
    let [client, dns, stranger] = ["client", "dns", "stranger"].map(|it| node.pod(it));
    writeln!(file, "nameserver {}", dns.v4()).unwrap();
    let ours = dns.serve_names("ours", dns.at(53));
    let at = stranger.at(53);
    let resolver = stranger.serve_names("stranger", at);
    let locked = json!({ "egress": "locked" });
    node.enrol_with(&client, &locked);
    let answers = || {
        [How::Connected, How::Unconnected, How::Tcp].map(|how| {
            let answer = client.ask(at, "whoami.example.com.", TXT, how);
            let mut answer = answer.unwrap();
            assert_eq!(answer.from, at, "{how:?}");
            answer.records.remove(0)
        })
    };
    assert_eq!(answers(), ["ours"; 3]);
    client.datagrams().send_to(at, "no question").unwrap();
    let failed = || {
        let labels = [("outcome", "failed")];
        node.metrics().sum("mesh_dns_queries_total", &labels)
    };
    assert_eventually!(failed() >= 1.0);
    // After a question for a zone, more would follow on its connection than questions.
    let before = ours.seen().connections;
    let zone = client.ask(at, "example.com.", AXFR, How::Tcp).unwrap();
    assert!(zone.records.is_empty() && zone.code == "Query Refused");
    assert_eq!(ours.seen().connections, before);
    assert_eq!(resolver.seen().connections, 0);

    let exits = json!([{ "cidr": format!("{}/32", at.ip()), "ports": [53] }]);
    let let_out = with_egress(&locked, &json!({ "egressAllow": exits }));
    node.enrol_with(&client, &let_out);
    assert_eq!(answers(), ["stranger"; 3]);
}

#[test]
fn locked_egress_to_all_of_one_family_lets_out_nothing_of_the_other() {
    let Some(node) = Node::start() else { return };
    let [client, server] = ["client", "server"].map(|it| node.pod(it));
    for to in [server.at(7_001), server.at_v6(7_001)] {
        server.serve_at(mesh_tests::protocol::ServerKind::Echo, to);
    }
    let (v4, v6) = (server.at(7_001), server.at_v6(7_001));
    for (cidr, open, closed) in [("::/0", v6, v4), ("0.0.0.0/0", v4, v6)] {
        let exits = json!([{ "cidr": cidr }]);
        let locked = json!({ "egress": "locked", "egressAllow": exits });
        node.enrol_with(&client, &locked);
        client.connect(open).unwrap().echo("hello").unwrap();
        let refused = client.connect(closed).unwrap_err();
        assert_eq!(refused.kind, "ConnectionRefused", "{cidr}");
    }
}

fn with_egress(fields: &Value, more: &Value) -> Value {
    let mut fields = fields.clone();
    fields["egressAllow"] = more["egressAllow"].clone();
    fields
}

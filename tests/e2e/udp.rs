//! UDP services: balanced at connect and at sendmsg, answers from where the question went, sockets that keep their
//! endpoint while it serves them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mesh_tests::assert_eventually;
use mesh_tests::pod::mapped;
use mesh_tests::registry::{endpoint, policy, service, with};
use serde_json::{Value, json};

use crate::shop::Shop;

/// Port of the servers.
const PORT: u16 = 7_053;

fn quotes() -> SocketAddr {
    "240.240.0.50:17".parse().unwrap()
}

fn quotes_v6() -> SocketAddr {
    "[fd00:240:240::50]:17".parse().unwrap()
}

/// A service of datagrams with an endpoint of each family on every server, named as the server.
fn open_quotes(shop: &Shop, balancing: &str) {
    let addresses = ["240.240.0.50", "fd00:240:240::50"];
    let plain = service("quotes", &addresses, "main", 17, "udp");
    let mut objects = vec![with(plain, &json!({ "balancing": balancing }))];
    for (index, pod) in shop.servers.iter().enumerate() {
        pod.serve_datagrams(pod.name(), PORT);
        objects.push(quote(shop, index, &json!({})));
        let name = format!("quotes-{}-v6", index + 1);
        objects.push(endpoint(&name, "quotes", pod.v6(), "main", PORT));
    }
    shop.node.apply(&objects);
}

fn quote(shop: &Shop, index: usize, fields: &Value) -> Value {
    let name = format!("quotes-{}", index + 1);
    let address = shop.servers[index].v4();
    with(endpoint(&name, "quotes", address, "main", PORT), fields)
}

/// What a metric shows, in digits.
fn shown(shop: &Shop, family: &str, labels: &[(&str, &str)]) -> String {
    shop.node.metrics().sum(family, labels).to_string()
}

#[test]
fn unconnected_sockets_reach_an_endpoint_and_see_the_service_answer() {
    let Some(shop) = Shop::open(1) else { return };
    open_quotes(&shop, "RoundRobin");
    let v4 = shop.client.datagrams();
    let v6 = shop.client.datagrams_v6();
    for (socket, to) in [(&v4, quotes()), (&v6, quotes_v6()), (&v6, mapped(quotes()))] {
        for _ in 0..3 {
            assert_eq!(socket.ask(to), "server-1", "{to}");
        }
    }
    let metric = |verdict: &str, reason: &str| {
        let labels = [
            ("workload", "client"),
            ("verdict", verdict),
            ("reason", reason),
        ];
        shown(&shop, "mesh_connections_total", &labels)
    };
    assert_eventually!(metric("direct", "service") == "3");
    assert_eventually!(shop.coverage()["direct"] == 3);
    let service = shop
        .node
        .api()
        .get("/api/v1/namespaces/shop/services/quotes");
    assert!(
        mesh_tests::node::has_condition(&service, "Programmed"),
        "{service}"
    );
    let labels = [("map", "REPLIES")];
    assert_eq!(shown(&shop, "mesh_map_entries", &labels), "6");
    assert_eq!(shown(&shop, "mesh_map_capacity", &labels), "65536");
}

#[test]
fn connected_sockets_reach_an_endpoint_and_see_the_service_as_their_peer() {
    let Some(shop) = Shop::open(1) else { return };
    open_quotes(&shop, "RoundRobin");
    for to in [quotes(), quotes_v6(), mapped(quotes())] {
        let socket = shop.client.connect_datagrams(to).unwrap();
        assert_eq!(socket.peer(), to);
        socket.send("hello").unwrap();
        assert_eq!(socket.answer_from(to), "server-1");
    }
    assert_eventually!(shop.coverage()["direct"] == 3);
}

#[test]
fn sockets_are_balanced_and_each_keeps_its_endpoint() {
    for (balancing, least) in [("RoundRobin", 3), ("Random", 2), ("LeastRequest", 2)] {
        let Some(shop) = Shop::open(3) else { return };
        open_quotes(&shop, balancing);
        let mut names = BTreeSet::new();
        for _ in 0..12 {
            let socket = shop.client.datagrams();
            let name = socket.ask(quotes());
            for _ in 0..3 {
                assert_eq!(socket.ask(quotes()), name, "{balancing}");
            }
            names.insert(name);
        }
        assert!(names.len() >= least, "{balancing}: {names:?}");
        assert_eventually!(shop.coverage()["direct"] == 12);
    }
}

#[test]
fn a_connected_socket_that_also_says_where_to_reaches_whom_it_is_connected_to() {
    let Some(shop) = Shop::open(3) else { return };
    open_quotes(&shop, "RoundRobin");
    let mut names = BTreeSet::new();
    for number in 0..12 {
        let to = [quotes(), quotes_v6(), mapped(quotes())][number % 3];
        let socket = shop.client.connect_datagrams(to).unwrap();
        socket.send("hello").unwrap();
        let name = socket.answer_from(to);
        for _ in 0..3 {
            assert_eq!(socket.ask(to), name, "{to}");
        }
        names.insert(name);
    }
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eventually!(shop.coverage()["direct"] == 12);
}

#[test]
fn a_socket_moves_when_its_endpoint_goes_and_not_before() {
    let Some(shop) = Shop::open(2) else { return };
    open_quotes(&shop, "RoundRobin");
    let socket = shop.client.datagrams();
    let first = socket.ask(quotes());
    let index = usize::from(first == "server-2");
    shop.node
        .apply(&[quote(&shop, index, &json!({ "draining": true }))]);
    assert_eq!(
        socket.ask(quotes()),
        first,
        "a draining endpoint keeps what it has"
    );
    shop.node.delete(&quote(&shop, index, &json!({})));
    let second = socket.ask(quotes());
    assert_ne!(second, first);
    shop.node.apply(&[quote(&shop, index, &json!({}))]);
    assert_eq!(socket.ask(quotes()), second, "it stays where it is");
    assert_eventually!(shop.coverage()["direct"] == 2);
}

#[test]
fn one_socket_speaks_with_services_and_others_at_once() {
    let Some(shop) = Shop::open(2) else { return };
    open_quotes(&shop, "RoundRobin");
    let other = "240.240.0.51:17".parse().unwrap();
    shop.servers[1].serve_datagrams("other", 9_000);
    shop.node.apply(&[
        service("other", &["240.240.0.51"], "main", 17, "udp"),
        endpoint("other-1", "other", shop.servers[1].v4(), "main", 9_000),
    ]);
    let socket = shop.client.datagrams();
    let first = socket.ask(quotes());
    for _ in 0..2 {
        assert_eq!(socket.ask(other), "other");
        assert_eq!(socket.ask(quotes()), first);
        let address = shop.server().at(PORT);
        if first != "server-1" {
            assert_eq!(socket.ask(address), "server-1", "nothing is translated");
        }
    }
    assert_eventually!(shop.coverage()["direct"] == 2);
}

#[test]
fn what_is_no_service_passes_and_the_same_port_of_tcp_is_another() {
    let Some(shop) = Shop::open(1) else { return };
    open_quotes(&shop, "RoundRobin");
    let socket = shop.client.datagrams();
    for _ in 0..3 {
        assert_eq!(socket.ask(shop.server().at(PORT)), "server-1");
    }
    assert_eventually!(shop.coverage()["reasons"]["no-service"] == 1);
    shop.client
        .netns()
        .ip_batch("route add unreachable 240.240.0.0/16\n");
    assert!(shop.client.connect(quotes()).is_err());
    let explained = shop.node.api().explain("shop/client", "240.240.0.50:17");
    assert_eq!(explained["reason"], "no-service");
}

#[test]
fn a_service_without_endpoints_refuses_datagrams() {
    let Some(shop) = Shop::open(0) else { return };
    shop.node
        .apply(&[service("quotes", &["240.240.0.50"], "main", 17, "udp")]);
    let socket = shop.client.datagrams();
    for _ in 0..2 {
        let failure = socket.send_to(quotes(), "hello").unwrap_err();
        assert_eq!(failure.kind, "ConnectionRefused");
    }
    let failure = shop.client.connect_datagrams(quotes()).unwrap_err();
    assert_eq!(failure.kind, "ConnectionRefused");
    assert_eventually!(shop.coverage()["reasons"]["no-endpoint"] == 3);
}

#[test]
fn policy_holds_for_datagrams_at_the_service_and_at_its_endpoints() {
    let Some(shop) = Shop::open(1) else { return };
    open_quotes(&shop, "RoundRobin");
    let socket = shop.client.datagrams();
    assert_eq!(socket.ask(quotes()), "server-1");
    let from = json!({ "serviceAccounts": ["client"] });
    shop.node
        .apply(&[policy("no-quotes", "Deny", ("Service", "quotes"), &from)]);
    for to in [quotes(), shop.server().at(PORT)] {
        let failure = socket.send_to(to, "hello").unwrap_err();
        assert_eq!(failure.kind, "ConnectionRefused", "{to}");
    }
    assert!(shop.client.connect_datagrams(quotes_v6()).is_err());
    assert_eventually!(shop.coverage()["reasons"]["policy"] == 3);
    let explained = shop
        .node
        .api()
        .explain_datagram("shop/client", "240.240.0.50:17");
    assert_eq!(
        (&explained["verdict"], &explained["policy"][0]),
        (&json!("deny"), &json!("shop/no-quotes"))
    );
}

#[test]
fn the_destination_refuses_datagrams_of_who_was_not_asked_at_the_source() {
    let Some(shop) = Shop::open(1) else { return };
    open_quotes(&shop, "RoundRobin");
    shop.node.enrol(shop.server());
    let stranger = shop.node.pod("stranger");
    let socket = stranger.datagrams();
    let to = shop.server().at(PORT);
    assert_eq!(socket.ask(to), "server-1");
    let from = json!({ "serviceAccounts": ["client"] });
    shop.node
        .apply(&[policy("only", "Allow", ("Service", "quotes"), &from)]);
    socket.send_to(to, "hello").unwrap();
    assert_eventually!(
        shown(
            &shop,
            "mesh_inbound_denied_total",
            &[("workload", "server-1")]
        ) == "1"
    );
    assert!(socket.receive_within(200).is_err());
    assert_eq!(shop.client.datagrams().ask(quotes()), "server-1");
}

#[test]
fn who_asks_gets_an_answer_though_nobody_may_call_him() {
    let Some(shop) = Shop::open(1) else { return };
    open_quotes(&shop, "RoundRobin");
    shop.node.enrol(shop.server());
    let nobody = json!({ "serviceAccounts": ["nobody"] });
    shop.node
        .apply(&[policy("quiet", "Allow", ("Workload", "client"), &nobody)]);
    assert_eq!(shop.client.datagrams().ask(quotes()), "server-1");
    let connected = shop.client.connect_datagrams(quotes()).unwrap();
    connected.send("hello").unwrap();
    assert_eq!(connected.answer_from(quotes()), "server-1");
    let listening = shop.client.datagrams();
    let to = SocketAddr::new(shop.client.v4(), listening.local().port());
    let failure = shop.server().datagrams().send_to(to, "hello").unwrap_err();
    assert_eq!(failure.kind, "ConnectionRefused");
}

#[test]
fn datagrams_need_no_agent() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    open_quotes(&shop, "RoundRobin");
    let kept = shop.client.datagrams();
    assert_eq!(kept.ask(quotes()), "server-1");
    shop.node.agent().kill();
    assert_eq!(kept.ask(quotes()), "server-1");
    assert_eq!(shop.client.datagrams().ask(quotes()), "server-1");
    shop.node.start_agent();
    assert_eq!(kept.ask(quotes()), "server-1");
}

#[test]
fn explain_says_what_happens_to_datagrams() {
    let Some(shop) = Shop::open(1) else { return };
    open_quotes(&shop, "RoundRobin");
    let explain = |to: &str| shop.node.api().explain_datagram("shop/client", to);
    let direct = explain("240.240.0.50:17");
    assert_eq!(direct["verdict"], "direct");
    assert_eq!(direct["service"], "shop/quotes");
    assert_eq!(
        direct["endpoints"],
        json!([shop.server().at(PORT).to_string()])
    );
    assert_eq!(explain("192.0.2.1:17")["reason"], "no-service");
    assert_eq!(explain("127.0.0.1:17")["reason"], "loopback");
    let arguments = ["explain", "shop/client", "240.240.0.50:17", "--udp"];
    let output = shop.node.command(&arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("shop/quotes"), "{text}");
}

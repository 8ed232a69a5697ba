//! Balancing by traffic policies: algorithms, consistent hashing, sessions, nearness, subsets, failover, panic.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_tests::assert_eventually;
use mesh_tests::node::Node;
use mesh_tests::protocol::ServerKind;
use mesh_tests::registry::{endpoint, object, service, with};
use serde_json::{Value, json};

use crate::shop::{Shop, WEB};

/// Port of the web servers.
const PORT: u16 = 8_080;

/// How often each server answered.
type Hits = BTreeMap<String, u32>;

/// A web service over IPv4 with so many servers; `fields` of each endpoint.
#[track_caller]
fn open(servers: usize, fields: impl Fn(usize) -> Value) -> Option<Shop> {
    let shop = Shop::open(servers)?;
    shop.node.apply(&web(&shop, fields));
    Some(shop)
}

/// The same objects on a node that is there.
#[track_caller]
fn web(shop: &Shop, fields: impl Fn(usize) -> Value) -> Vec<Value> {
    let mut objects = vec![service("web", &["240.240.0.10"], "http", 80, "http")];
    for (index, pod) in shop.servers.iter().enumerate() {
        let name = format!("web-{}", index + 1);
        pod.serve_http(&name, PORT);
        let endpoint = endpoint(&name, "web", pod.v4(), "http", PORT);
        objects.push(with(endpoint, &fields(index)));
    }
    objects
}

fn plain(_: usize) -> Value {
    json!({})
}

/// A traffic policy for the web service.
fn policy(balancing: &Value) -> Value {
    object(
        "TrafficPolicy",
        "web",
        &json!({"target": {"kind": "Service", "name": "web"}, "loadBalancing": balancing}),
    )
}

/// Who answers so many requests.
#[track_caller]
fn hits(shop: &Shop, requests: u32) -> Hits {
    let mut hits = Hits::new();
    for _ in 0..requests {
        *hits.entry(ask(shop, &[])).or_default() += 1;
    }
    hits
}

/// Who answers a request with these headers.
#[track_caller]
fn ask(shop: &Shop, headers: &[(&str, &str)]) -> String {
    let answer = shop.client.request("GET", WEB, headers, "").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("x-server").to_owned()
}

fn counted(hits: &[(&str, u32)]) -> Hits {
    hits.iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

#[test]
fn each_algorithm_has_its_distribution() {
    let weights = [1, 1, 2];
    let Some(shop) = open(3, |index| json!({"weight": weights[index]})) else {
        return;
    };
    let exact = counted(&[("web-1", 6), ("web-2", 6), ("web-3", 12)]);
    for algorithm in ["RoundRobin", "WeightedRoundRobin"] {
        shop.node.apply(&[policy(&json!({"algorithm": "Random"}))]);
        shop.node.apply(&[policy(&json!({"algorithm": algorithm}))]);
        // The proxy hears of it a moment later; from then on it is exact.
        assert_eventually!((0..2).all(|_| hits(&shop, 24) == exact));
    }
    for algorithm in ["Random", "LeastRequest", "PeakEwma", "RingHash", "Maglev"] {
        let mut balancing = json!({"algorithm": algorithm});
        if matches!(algorithm, "RingHash" | "Maglev") {
            // Requests without the header are spread by weight.
            balancing["hashOn"] = json!({"header": "x-user"});
        }
        shop.node.apply(&[policy(&balancing)]);
        // The odds that a share of one quarter gets less than a tenth of 200 are below one in a million. By latency one
        // that was slow once, on a busy machine, gets nothing for a while.
        let fewest = if algorithm == "PeakEwma" { 2 } else { 3 };
        assert_eventually!({
            let hits = hits(&shop, 200);
            hits.len() >= fewest && (fewest < 3 || hits.values().all(|count| *count > 20))
        });
    }
}

#[test]
fn a_key_sticks_to_its_endpoint_and_few_move() {
    let Some(shop) = open(3, plain) else { return };
    let keys: Vec<String> = (0..60).map(|key| format!("user-{key}")).collect();
    let map = || -> Vec<String> {
        let one = |key: &String| ask(&shop, &[("x-user", key.as_str())]);
        keys.iter().map(one).collect()
    };
    for algorithm in ["RingHash", "Maglev"] {
        let balancing = json!({"algorithm": algorithm, "hashOn": {"header": "x-user"}});
        shop.node.apply(&[policy(&balancing)]);
        assert_eventually!(map() == map());
        let before = map();
        let third = before.iter().filter(|it| *it == "web-3").count();
        assert!((5..40).contains(&third), "{algorithm}: {before:?}");
        let gone = endpoint("web-3", "web", shop.servers[2].v4(), "http", PORT);
        shop.node.delete(&gone);
        assert_eventually!(!map().contains(&"web-3".to_owned()));
        let after = map();
        let strayed = before.iter().zip(&after);
        let strayed = strayed
            .filter(|(before, after)| *before != "web-3" && before != after)
            .count();
        // The ring moves no other key; Maglev a few.
        assert!(strayed <= if algorithm == "RingHash" { 0 } else { 6 });
        shop.node.apply(&[gone]);
        assert_eventually!(map() == before);
    }
}

#[test]
fn a_session_brings_a_client_back_until_its_endpoint_is_gone() {
    let Some(shop) = open(3, plain) else { return };
    let session = json!({"sessionPersistence": {"sessionName": "sid", "absoluteTimeout": "1h",
        "cookieConfig": {"lifetimeType": "Permanent"}}});
    shop.node.apply(&[policy(&session)]);
    assert_eventually!(!shop.client.get(WEB).header("set-cookie").is_empty());
    let first = shop.client.get(WEB);
    let cookie = first.header("set-cookie").to_owned();
    assert!(cookie.starts_with("sid="), "{cookie}");
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"),
        "{cookie}"
    );
    let home = first.header("x-server").to_owned();
    let sent = cookie.split(';').next().unwrap().to_owned();
    for _ in 0..20 {
        let answer = shop
            .client
            .request("GET", WEB, &[("cookie", &sent)], "")
            .unwrap();
        assert_eq!(answer.header("x-server"), home);
        assert_eq!(answer.header("set-cookie"), "", "it has one");
    }
    let index = home.strip_prefix("web-").unwrap().parse::<usize>().unwrap();
    let gone = endpoint(&home, "web", shop.servers[index - 1].v4(), "http", PORT);
    shop.node.delete(&gone);
    let again = || {
        let answer = shop.client.request("GET", WEB, &[("cookie", &sent)], "");
        answer.unwrap()
    };
    assert_eventually!(again().header("x-server") != home);
    assert!(again().header("set-cookie").starts_with("sid="));
    // A header does the same.
    let session = json!({"sessionPersistence": {"type": "Header", "sessionName": "X-Session"}});
    shop.node.apply(&[policy(&session)]);
    assert_eventually!(!shop.client.get(WEB).header("x-session").is_empty());
    let first = shop.client.get(WEB);
    let token = first.header("x-session").to_owned();
    let again = || ask(&shop, &[("x-session", &token)]);
    assert!((0..10).all(|_| again() == first.header("x-server")));
}

#[test]
fn near_endpoints_go_first_and_others_stand_in() {
    let Some(shop) = open(3, plain) else { return };
    // Whoever is a workload of the node is on it.
    shop.node.enrol(&shop.servers[0]);
    let balancing = json!({"locality": {"prefer": ["Node"]}, "panicThreshold": 0});
    shop.node.apply(&[policy(&balancing)]);
    assert_eventually!(hits(&shop, 20) == counted(&[("web-1", 20)]));
    let went = |place: &str| {
        let labels = [
            ("service", "web"),
            ("namespace", "shop"),
            ("locality", place),
        ];
        let metrics = shop.node.metrics();
        metrics.sum("mesh_proxy_locality_attempts_total", &labels)
    };
    assert!(went("node") >= 20.0);
    let elsewhere = went("other");
    shop.servers[0].kill();
    assert_eq!(
        hits(&shop, 20).keys().collect::<Vec<_>>(),
        ["web-2", "web-3"]
    );
    assert!(went("other") >= elsewhere + 20.0);
}

#[test]
fn a_zone_spills_over_as_its_endpoints_fail() {
    let flags = ["--region", "eu", "--zone", "eu-1", "--node", "n1"];
    let Some(node) = Node::start_with(&flags) else {
        return;
    };
    let client = node.pod("client");
    let servers: Vec<_> = (1..=3)
        .map(|it| node.pod(&format!("server-{it}")))
        .collect();
    let shop = Shop {
        client,
        servers,
        node,
    };
    shop.node.enrol(&shop.client);
    let zones = ["eu-1", "eu-1", "eu-2"];
    shop.node.apply(&web(
        &shop,
        |index| json!({"locality": {"region": "eu", "zone": zones[index]}}),
    ));
    let balancing = json!({"algorithm": "RoundRobin", "panicThreshold": 0,
        "locality": {"prefer": ["Zone", "Region"], "minHealthyPercent": 100}});
    shop.node.apply(&[policy(&balancing)]);
    assert_eventually!(hits(&shop, 20) == counted(&[("web-1", 10), ("web-2", 10)]));
    // Half of the zone is left, so it keeps half of the requests: 100, with a standard deviation of 7.
    shop.servers[0].kill();
    assert_eventually!({
        let hits = hits(&shop, 200);
        let count = |name: &str| hits.get(name).copied().unwrap_or(0);
        count("web-1") == 0 && (60..140).contains(&count("web-3"))
    });
    let labels = [("service", "web"), ("locality", "region")];
    let metrics = shop.node.metrics();
    assert!(metrics.sum("mesh_proxy_locality_attempts_total", &labels) >= 60.0);
}

#[test]
fn a_session_of_a_rule_stays_in_its_share() {
    let Some(shop) = open(2, plain) else { return };
    let mut objects = Vec::new();
    for (index, pod) in shop.servers.iter().enumerate() {
        let name = format!("half-{index}");
        let address = format!("240.240.2.{}", index + 1);
        objects.push(service(&name, &[&address], "http", 80, "http"));
        objects.push(endpoint(
            &format!("{name}-0"),
            &name,
            pod.v4(),
            "http",
            PORT,
        ));
    }
    let rules = json!([{
        "backendRefs": [{"name": "half-0", "port": 80}, {"name": "half-1", "port": 80}],
        "sessionPersistence": {"sessionName": "sid"},
    }]);
    let parents = json!([{"group": "", "kind": "Service", "name": "web"}]);
    let mut route = object(
        "HTTPRoute",
        "halves",
        &json!({"parentRefs": parents, "rules": rules}),
    );
    route["apiVersion"] = json!("gateway.networking.k8s.io/v1");
    objects.push(route);
    shop.node.apply(&objects);
    let mut seen = Vec::new();
    assert_eventually!({
        let first = shop.client.get(WEB);
        let cookie = first.header("set-cookie").split(';').next().unwrap_or("");
        if !cookie.is_empty() {
            let home = first.header("x-server").to_owned();
            assert!((0..10).all(|_| ask(&shop, &[("cookie", cookie)]) == home));
            seen.push(home);
        }
        seen.contains(&"web-1".to_owned()) && seen.contains(&"web-2".to_owned())
    });
}

#[test]
fn a_subset_takes_its_share_by_version_or_label() {
    let version = |index: usize| json!({"version": if index == 2 { "v2" } else { "v1" }});
    let Some(shop) = open(3, version) else { return };
    let only = json!({"subsets": [{"version": "v2"}]});
    shop.node.apply(&[policy(&only)]);
    assert_eventually!(hits(&shop, 20) == counted(&[("web-3", 20)]));
    let most = json!({"subsets": [
        {"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}, {"version": "v3", "weight": 50}]});
    shop.node.apply(&[policy(&most)]);
    // A share of one tenth: 30 of 300, with a standard deviation of 5.
    assert_eventually!((5..60).contains(hits(&shop, 300).get("web-3").unwrap_or(&0)));
    let nobody = json!({"subsets": [{"labels": {"track": "canary"}}]});
    shop.node.apply(&[policy(&nobody)]);
    assert_eventually!(shop.client.get(WEB).status == 503);
    let mut canary = endpoint("web-1", "web", shop.servers[0].v4(), "http", PORT);
    canary["metadata"]["labels"] = json!({"track": "canary"});
    shop.node.apply(&[canary]);
    assert_eventually!(shop.client.get(WEB).status == 200);
    assert_eq!(hits(&shop, 10), counted(&[("web-1", 10)]));
}

#[test]
fn another_service_takes_over_when_nobody_is_well() {
    let Some(mut shop) = open(1, plain) else {
        return;
    };
    let backup = shop.node.pod("backup");
    backup.serve_http("backup", PORT);
    shop.node.apply(&[
        service("backup", &["240.240.0.30"], "http", 80, "http"),
        endpoint("backup-1", "backup", backup.v4(), "http", PORT),
        policy(&json!({"failover": [{"service": "nowhere"}, {"service": "backup"}]})),
    ]);
    assert_eq!(hits(&shop, 5), counted(&[("web-1", 5)]));
    let failovers = || {
        let labels = [("service", "web"), ("to", "backup.shop")];
        let metrics = shop.node.metrics();
        metrics.sum("mesh_proxy_failovers_total", &labels)
    };
    assert!(failovers() < 1.0);
    shop.server().kill();
    assert_eventually!(hits(&shop, 10) == counted(&[("backup", 10)]));
    assert!(failovers() >= 10.0);
    let agent = shop.node.agent();
    assert_eventually!(
        agent
            .log()
            .matches(r#""dst.service":"shop/backup""#)
            .count()
            >= 10
    );
    drop(backup);
}

#[test]
fn in_a_panic_everybody_is_asked() {
    let Some(shop) = open(4, plain) else { return };
    let panics = || {
        let metrics = shop.node.metrics();
        metrics.sum("mesh_proxy_balancing_panic_total", &[("service", "web")])
    };
    let balancing = json!({"algorithm": "RoundRobin", "panicThreshold": 60});
    shop.node.apply(&[policy(&balancing)]);
    assert_eventually!(
        hits(&shop, 40) == counted(&[("web-1", 10), ("web-2", 10), ("web-3", 10), ("web-4", 10)])
    );
    shop.servers[3].kill();
    assert_eq!(hits(&shop, 40).len(), 3);
    assert!(panics() < 1.0, "three of four are well");
    shop.servers[2].kill();
    assert_eventually!({
        // Those who refuse are asked again and again, and every request is answered by another.
        assert_eq!(hits(&shop, 20).len(), 2);
        panics() >= 20.0
    });
}

#[test]
fn an_opaque_connection_goes_where_its_source_does() {
    let Some(shop) = Shop::open(3) else { return };
    let mut objects = vec![
        with(
            service("lines", &["240.240.0.40"], "tcp", 4_000, "tcp"),
            &json!({"mode": "proxy"}),
        ),
        object(
            "TrafficPolicy",
            "lines",
            &json!({"target": {"kind": "Service", "name": "lines"},
                "loadBalancing": {"algorithm": "Maglev", "hashOn": {"source": true}}}),
        ),
    ];
    for (index, pod) in shop.servers.iter().enumerate() {
        let line = format!("server {index}");
        pod.serve(ServerKind::Greeting { line }, 4_000);
        let name = format!("lines-{index}");
        objects.push(endpoint(&name, "lines", pod.v4(), "tcp", 4_000));
    }
    shop.node.apply(&objects);
    let address: SocketAddr = "240.240.0.40:4000".parse().unwrap();
    let who = || {
        let conn = shop.client.connect(address).unwrap();
        let line = conn.receive(9).unwrap();
        conn.close();
        line
    };
    assert_eventually!({
        let first = who();
        first.starts_with("server ") && (0..20).all(|_| who() == first)
    });
}

//! Routes of the Gateway API through a real agent.

use std::time::{Duration, Instant};

use mesh_tests::assert_eventually;
use mesh_tests::protocol::{HttpAnswer, ServerKind};
use mesh_tests::registry::{endpoint, object, service, with};
use serde_json::{Value, json};

use crate::shop::{Shop, WEB, steady, web};

/// A route that is attached to the service `web`, or another parent.
pub(crate) fn route(kind: &str, parent: &str, rules: &Value) -> Value {
    let parent = json!({"group": "", "kind": "Service", "name": parent});
    let mut route = object(kind, "r", &json!({"parentRefs": [parent], "rules": rules}));
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    route["apiVersion"] = json!(format!("gateway.networking.k8s.io/{version}"));
    route
}

pub(crate) fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

/// The service `web` with the servers `web-1`.., and a service for each server of its own.
pub(crate) fn open(servers: usize, names: &[&str]) -> Option<Shop> {
    let shop = Shop::open(servers)?;
    let mut objects = vec![service("web", &["240.240.0.10"], "http", 80, "http")];
    for ((index, name), pod) in (0..).zip(names).zip(shop.servers.iter().cycle()) {
        let port = 8_080 + index;
        pod.serve_http(name, port);
        let address = format!("240.240.1.{index}");
        objects.push(service(name, &[&address], "http", 80, "http"));
        objects.push(endpoint(&format!("{name}-0"), name, pod.v4(), "http", port));
    }
    shop.node.apply(&objects);
    Some(shop)
}

pub(crate) fn ask(shop: &Shop, method: &str, target: &str, headers: &[(&str, &str)]) -> HttpAnswer {
    let url = format!("{}{}", WEB.trim_end_matches('/'), target);
    shop.client.request(method, &url, headers, "").unwrap()
}

#[test]
fn requests_go_where_the_most_specific_rule_sends_them() {
    let Some(mut shop) = open(1, &["a", "b"]) else {
        return;
    };
    let header = json!([{"name": "X-User", "value": "b"}]);
    let expression = json!([{"type": "RegularExpression", "name": "q", "value": "b+"}]);
    shop.node.apply(&[route(
        "HTTPRoute",
        "web",
        &json!([
            {"backendRefs": to("a"), "matches": [{"path": {"value": "/shop"}}]},
            {"name": "to-b", "backendRefs": to("b"), "matches": [
                {"path": {"type": "Exact", "value": "/shop/b"}},
                {"path": {"value": "/shop"}, "headers": header},
                {"path": {"value": "/shop"}, "queryParams": expression},
                {"path": {"value": "/shop"}, "method": "PUT"},
                {"path": {"type": "RegularExpression", "value": "/[bc]+"}},
            ]},
            {"backendRefs": to("gone"), "matches": [{"path": {"value": "/gone"}}]},
        ]),
    )]);
    for (method, target, headers, server) in [
        ("GET", "/shop", &[][..], "a"),
        ("GET", "/shop/x", &[], "a"),
        ("GET", "/shop/b", &[], "b"),
        ("GET", "/shop/b/", &[], "a"),
        ("GET", "/shop/x", &[("x-user", "b")], "b"),
        ("GET", "/shop/x?q=bb", &[], "b"),
        ("GET", "/shop/x?q=bc", &[], "a"),
        ("PUT", "/shop/x", &[], "b"),
        ("GET", "/cb", &[], "b"),
    ] {
        let answer = ask(&shop, method, target, headers);
        assert_eq!(
            answer.header("x-server"),
            server,
            "{method} {target} {headers:?}"
        );
    }
    for (target, status, reason) in [("/other", 404, "no-route"), ("/gone", 500, "bad-backend")] {
        let answer = ask(&shop, "GET", target, &[]);
        assert_eq!(
            (answer.status, answer.header("x-mesh-error")),
            (status, reason)
        );
        let labels = [("reason", reason)];
        assert_eventually!(shop.node.metrics().sum("mesh_proxy_errors_total", &labels) == 1.0);
    }
    let lost = [("response_flags", "NR"), ("response_code", "404")];
    assert_eventually!(shop.node.metrics().sum("istio_requests_total", &lost) == 1.0);
    let to_b = [("destination_service_name", "b"), ("response_code", "200")];
    assert_eventually!(shop.node.metrics().sum("istio_requests_total", &to_b) == 5.0);
    let agent = shop.node.agent();
    assert_eventually!(agent.log().matches(r#""route":"shop/r/to-b""#).count() == 5);
    assert_eventually!(agent.log().contains(r#""reason":"no-route""#));
    expect_calls_first(&shop);
}

/// Where a `GRPCRoute` is attached, the `HTTPRoute` is rejected and says so, until that is gone.
fn expect_calls_first(shop: &Shop) {
    let calls = route("GRPCRoute", "web", &json!([{"backendRefs": to("a")}]));
    shop.node.apply(std::slice::from_ref(&calls));
    let path = "/api/v1/namespaces/shop/httproutes/r";
    let rejected = &shop.node.api().get(path)["status"]["parents"][0]["conditions"][0];
    let rejected = ["type", "status", "reason"].map(|field| &rejected[field]);
    assert_eq!(rejected, ["Accepted", "False", "Conflicted"]);
    assert_eventually!(ask(shop, "GET", "/cb", &[]).status == 404);
    shop.node.delete(&calls);
    assert_eventually!(ask(shop, "GET", "/cb", &[]).status == 200);
}

#[test]
fn weights_split_requests_and_zero_takes_none() {
    let Some(shop) = open(2, &["most", "few", "none"]) else {
        return;
    };
    let shares = json!([
        {"name": "most", "port": 80, "weight": 90},
        {"name": "few", "port": 80, "weight": 10},
        {"name": "none", "port": 80, "weight": 0},
    ]);
    shop.node
        .apply(&[route("HTTPRoute", "web", &json!([{"backendRefs": shares}]))]);
    let load = shop.client.load(steady(true, web(), true));
    let requests = || shop.node.metrics().sum("istio_requests_total", &[]);
    assert_eventually!(requests() > 1_000.0, Duration::from_mins(1));
    let report = load.stop();
    assert_eq!(report.failed, 0, "{report:?}");
    assert_eq!(report.by_server.get("none"), None, "{report:?}");
    assert!(report.succeeded > 500, "{report:?}");
    // Five standard deviations of a binomial distribution: 0.3 is the root of 0.1 * 0.9.
    let count = |number: u64| f64::from(u32::try_from(number).unwrap());
    let all = count(report.succeeded);
    let excess = count(report.by_server["few"]) - all / 10.0;
    assert!(excess.abs() < 5.0 * 0.3 * all.sqrt(), "{report:?}");
}

#[test]
fn filters_redirect_rewrite_and_mark() {
    let Some(shop) = open(1, &["a"]) else { return };
    let path = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"});
    let set = |name: &str| json!({"set": [{"name": name, "value": "yes"}]});
    shop.node.apply(&[route(
        "HTTPRoute",
        "web",
        &json!([
            {"matches": [{"path": {"value": "/moved"}}], "filters": [
                {"type": "RequestRedirect", "requestRedirect": {"hostname": "else", "path": path}},
            ]},
            {"matches": [{"path": {"value": "/old"}}], "backendRefs": to("a"), "filters": [
                {"type": "URLRewrite", "urlRewrite": {"hostname": "inner", "path": path}},
                {"type": "RequestHeaderModifier", "requestHeaderModifier": set("x-asked")},
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": set("x-answered")},
                {"type": "CORS", "cors": {"allowOrigins": ["http://page"]}},
            ]},
        ]),
    )]);
    let answer = ask(&shop, "GET", "/moved/x?q", &[]);
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), "http://else/new/x?q");
    let answer = ask(&shop, "GET", "/old/x?q", &[("origin", "http://page")]);
    assert_eq!(answer.header("x-answered"), "yes");
    assert_eq!(answer.header("access-control-allow-origin"), "http://page");
    let seen = answer.json();
    assert_eq!(seen["uri"], "/new/x?q");
    let headers = seen["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["host", "inner"])), "{seen}");
    assert!(headers.contains(&json!(["x-asked", "yes"])), "{seen}");
}

#[test]
fn a_copy_arrives_and_one_that_nobody_reads_delays_nothing() {
    let Some(shop) = open(1, &["a", "shadow"]) else {
        return;
    };
    let deaf = shop.server().serve(ServerKind::Deaf, 7_777);
    shop.node.apply(&[
        service("deaf", &["240.240.2.1"], "http", 80, "http"),
        endpoint("deaf-0", "deaf", shop.server().v4(), "http", 7_777),
    ]);
    let mirror = |name: &str| {
        let backend = json!({"name": name, "port": 80});
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend}})
    };
    let rules = json!([{"backendRefs": to("a"), "filters": [mirror("shadow"), mirror("deaf")]}]);
    shop.node.apply(&[route("HTTPRoute", "web", &rules)]);
    let begin = Instant::now();
    for _ in 0..10 {
        assert_eq!(ask(&shop, "GET", "/", &[]).header("x-server"), "a");
    }
    assert!(begin.elapsed() < Duration::from_secs(3));
    let sent = [("outcome", "sent")];
    assert_eventually!(shop.node.metrics().sum("mesh_proxy_mirrored_total", &sent) == 10.0);
    assert_eventually!(deaf.seen().connections >= 10);
}

#[test]
fn tls_connections_go_by_the_name_that_is_asked_for() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    let greet = |name: &str, port| {
        let line = format!("{name}\n");
        shop.server().serve(ServerKind::Greeting { line }, port);
    };
    greet("a", 7_001);
    greet("b", 7_002);
    let mut objects = vec![service("tls", &["240.240.0.30"], "tls", 443, "tls")];
    for (number, name) in (1_u16..).zip(["a", "b"]) {
        let address = format!("240.240.3.{number}");
        objects.push(service(name, &[&address], "tcp", 80, "tcp"));
        let port = 7_000 + number;
        objects.push(endpoint(
            &format!("{name}-0"),
            name,
            shop.server().v4(),
            "tcp",
            port,
        ));
        let mut route = route("TLSRoute", "tls", &json!([{"backendRefs": to(name)}]));
        route["metadata"]["name"] = json!(name);
        objects.push(with(
            route,
            &json!({"hostnames": [format!("{name}.example")]}),
        ));
    }
    shop.node.apply(&objects);
    let address: std::net::SocketAddr = "240.240.0.30:443".parse().unwrap();
    for name in ["a", "b"] {
        let conn = shop.client.connect(address).unwrap();
        conn.send(&hello(&format!("{name}.example"))).unwrap();
        assert_eq!(conn.receive(2).unwrap(), format!("{name}\n"));
    }
    let conn = shop.client.connect(address).unwrap();
    let refused = conn
        .send(&hello("c.example"))
        .and_then(|()| conn.receive(1));
    assert_eq!(refused.unwrap_err().kind, "ConnectionReset");
    let lost = [("reason", "no-route")];
    assert_eventually!(shop.node.metrics().sum("mesh_proxy_errors_total", &lost) == 1.0);
    let agent = shop.node.agent();
    assert_eventually!(agent.log().contains(r#""reason":"no-route""#));
    conn.close();
}

/// The first message of a TLS client. All its bytes are ASCII.
fn hello(name: &str) -> String {
    let vector = |size: usize, content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[4 - size..], content].concat()
    };
    let entry = [&[0][..], &vector(2, name.as_bytes())].concat();
    let extension = [&[0, 0][..], &vector(2, &vector(2, &entry))].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, &[]),
        &vector(2, &[0x13, 1]),
        &vector(1, &[0]),
        &vector(2, &extension),
    ]
    .concat();
    let message = [&[1][..], &vector(3, &body)].concat();
    String::from_utf8([&[22, 3, 1][..], &vector(2, &message)].concat()).unwrap()
}

#[test]
fn opaque_connections_are_split_by_weight() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    let mut objects = vec![service("opaque", &["240.240.0.50"], "tcp", 70, "tcp")];
    for (number, name) in (1_u16..).zip(["a", "b", "c"]) {
        let line = format!("{name}\n");
        let port = 7_000 + number;
        shop.server().serve(ServerKind::Greeting { line }, port);
        let address = format!("240.240.3.{number}");
        objects.push(service(name, &[&address], "tcp", 80, "tcp"));
        objects.push(endpoint(
            &format!("{name}-0"),
            name,
            shop.server().v4(),
            "tcp",
            port,
        ));
    }
    let shares = json!([
        {"name": "a", "port": 80, "weight": 1},
        {"name": "b", "port": 80, "weight": 1},
        {"name": "c", "port": 80, "weight": 0},
    ]);
    objects.push(route(
        "TCPRoute",
        "opaque",
        &json!([{"backendRefs": shares}]),
    ));
    shop.node.apply(&objects);
    let address: std::net::SocketAddr = "240.240.0.50:70".parse().unwrap();
    let mut greeted = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..60 {
        let conn = shop.client.connect(address).unwrap();
        *greeted.entry(conn.receive(2).unwrap()).or_default() += 1;
        conn.close();
    }
    // One in 10^8 that one of two has fewer than 9 of 60.
    assert!(
        greeted.len() == 2 && greeted.values().all(|count| *count >= 9),
        "{greeted:?}"
    );
    assert!(!greeted.contains_key("c\n"), "{greeted:?}");
    let agent = shop.node.agent();
    assert_eventually!(agent.log().contains(r#""route":"shop/r/0""#));
}

#[test]
fn a_route_that_changes_under_load_fails_no_request() {
    let Some(shop) = open(2, &["a", "b"]) else {
        return;
    };
    let rules = |name: &str| json!([{"backendRefs": to(name)}]);
    shop.node.apply(&[route("HTTPRoute", "web", &rules("a"))]);
    let load = shop.client.load(steady(true, web(), true));
    for round in 0..20 {
        let name = ["b", "a"][round % 2];
        shop.node.apply(&[route("HTTPRoute", "web", &rules(name))]);
        assert_eventually!(ask(&shop, "GET", "/", &[]).header("x-server") == name);
    }
    let report = load.stop();
    assert_eq!(report.failed, 0, "{report:?}");
    assert_eq!(report.by_server.len(), 2, "{report:?}");
}

#[test]
fn explain_says_where_a_request_goes() {
    let Some(shop) = open(1, &["a", "b"]) else {
        return;
    };
    let shares = json!([
        {"name": "a", "port": 80, "weight": 3},
        {"name": "gone", "port": 80, "weight": 1},
    ]);
    let header = json!([{"name": "x-canary", "value": "1"}]);
    shop.node.apply(&[route(
        "HTTPRoute",
        "web",
        &json!([
            {"backendRefs": shares, "matches": [{"path": {"value": "/shop"}}],
                "timeouts": {"request": "2s"}},
            {"name": "canary", "backendRefs": to("b"),
                "matches": [{"path": {"value": "/shop"}, "headers": header}]},
        ]),
    )]);
    let explain = |query: &str| {
        let path = "/api/v1/explain?source=shop/client&destination=240.240.0.10:80";
        shop.node.api().get(&format!("{path}{query}"))["request"].take()
    };
    assert_eventually!(explain("&path=//shop/./x")["rule"] == "shop/r/0");
    let request = explain("&path=//shop/./x");
    assert_eq!(request["path"], "/shop/x");
    assert_eq!(request["requestTimeoutMillis"], 2_000);
    let share = |index: usize| {
        let share = &request["backends"][index];
        (
            share["service"].clone(),
            share["weight"].clone(),
            share["isMissing"].clone(),
        )
    };
    assert_eq!(share(0), (json!("shop/a:80"), json!(3), json!(false)));
    assert_eq!(share(1), (json!("shop/gone:80"), json!(1), json!(true)));
    assert_eq!(request["backends"][0]["endpoints"][0]["state"], "ready");
    assert_eq!(
        explain("&path=/shop&header=x-canary:1")["rule"],
        "shop/r/canary"
    );
    assert_eq!(explain("&path=/other")["status"], 404);
    assert_eq!(explain(""), Value::Null);
    let words = [
        "explain",
        "shop/client",
        "240.240.0.10:80",
        "--path",
        "/shop",
        "--header",
        "x-canary:1",
    ];
    let shown = shop.node.command(&words).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("shop/r/canary") && shown.contains("shop/b:80"),
        "{shown}"
    );
}

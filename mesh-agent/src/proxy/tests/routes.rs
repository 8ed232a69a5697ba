//! Requests on the ways that routes give them.

mod mirror;

use std::net::SocketAddr;

use http::Request;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::fixture::{Node, http1_server, nobody, snapshot, text};
use crate::state::Snapshot;
use crate::state::http_route::HttpRoute;
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;

/// The service `web` that is dialled, with one endpoint, and others that routes send to.
pub(super) fn registry(
    web: SocketAddr,
    others: &[(&str, SocketAddr)],
    routes: &[(&str, Value)],
) -> Snapshot {
    let mut fixture = Fixture::from(snapshot("http", &[web]));
    for (number, (name, address)) in (2..).zip(others) {
        let ports = json!([{"name": "main", "port": 80, "protocol": "http"}]);
        let spec = json!({"addresses": [format!("240.0.0.{number}")], "ports": ports});
        fixture = fixture.service(name, &spec);
        let spec =
            json!({"service": name, "address": address.ip(), "ports": {"main": address.port()}});
        fixture = fixture.endpoint(&format!("{name}-0"), &["main"], &spec);
    }
    for (name, rules) in routes {
        let parent = json!({"group": "", "kind": "Service", "name": "web"});
        let spec = json!({"parentRefs": [parent], "rules": rules});
        fixture = fixture.object::<HttpRoute>(name, &spec);
    }
    fixture.snapshot()
}

pub(super) fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

/// A server that tells its name, the target and the headers that tests look for.
async fn named(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
    http1_server(move |request| text(format!("{name} {}", told(&request)))).await
}

fn told(request: &Request<Incoming>) -> String {
    let mut all: Vec<_> = request
        .headers()
        .iter()
        .filter(|(name, _)| {
            let name = name.as_str();
            let is_ours = ["x-t-", "x_t_", "x-t_", "x_f"].iter();
            is_ours.into_iter().any(|it| name.starts_with(it))
                || matches!(name, "host" | "x-forwarded-prefix")
        })
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    all.sort();
    format!("{} {}", request.uri(), all.join(" "))
}

async fn node(registry: Snapshot) -> Node {
    let node = Node::start("http", &[nobody().await]);
    node.change(registry);
    node
}

/// One request on a connection of its own: the whole response.
async fn get(node: &Node, target: &str, headers: &str) -> String {
    ask(node, "GET", target, headers).await
}

async fn ask(node: &Node, method: &str, target: &str, headers: &str) -> String {
    node.raw(&format!(
        "{method} {target} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{headers}\r\n"
    ))
    .await
}

#[tokio::test]
async fn a_request_goes_where_its_rule_sends_it() {
    let (web, _web) = named("web").await;
    let (canary, _canary) = named("canary").await;
    let rules = json!([
        {"matches": [{"path": {"value": "/c"}}], "backendRefs": to("canary"), "name": "to-canary"},
        {"matches": [{"path": {"value": "/gone"}}], "backendRefs": to("gone")},
        {"matches": [{"path": {"value": "/nowhere"}}]},
        {"matches": [{"path": {"value": "/w"}}], "backendRefs": to("web")},
    ]);
    let node = node(registry(web, &[("canary", canary)], &[("r", rules)])).await;
    assert!(get(&node, "/c/x", "").await.contains("canary /c/x"));
    assert!(get(&node, "/w", "").await.contains("web /w"));
    for (target, status, reason) in [
        ("/x", "404", "no-route"),
        ("/gone", "500", "bad-backend"),
        ("/nowhere", "500", "bad-backend"),
    ] {
        let response = get(&node, target, "").await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{response}"
        );
        assert!(
            response.contains(&format!("x-mesh-error: {reason}")),
            "{response}"
        );
        node.metric(&["mesh_proxy_errors_total", reason], 1).await;
    }
    let to_canary = [
        "istio_requests_total",
        r#"destination_service="canary.shop.mesh""#,
        r#"response_code="200""#,
    ];
    assert_eq!(node.metric(&to_canary, 1).await, 1);
    let lost = ["istio_requests_total", r#"response_flags="NR""#];
    assert_eq!(node.metric(&lost, 1).await, 1);
}

#[tokio::test]
async fn the_faults_of_both_services_hold_for_a_request() {
    let (web, _web) = named("web").await;
    let (canary, _canary) = named("canary").await;
    let rules = json!([{"backendRefs": to("canary")}]);
    let registry = registry(web, &[("canary", canary)], &[("r", rules)]);
    let fault = |service: &str, header: &str, status: u16| {
        json!({"target": {"kind": "Service", "name": service},
            "faults": [{"headers": [{"name": header, "value": "1"}], "abort": {"status": status}}]})
    };
    let registry = Fixture::from(registry)
        .object::<TrafficPolicy>("asked", &fault("web", "x-a", 418))
        .object::<TrafficPolicy>("sent", &fault("canary", "x-b", 451));
    let node = node(registry.snapshot()).await;
    for (header, status) in [("x-a", 418), ("x-b", 451), ("x-c", 200)] {
        let response = get(&node, "/", &format!("{header}: 1\r\n")).await;
        let expected = format!("HTTP/1.1 {status}");
        assert!(response.starts_with(&expected), "{response}");
    }
    for policy in ["asked", "sent"] {
        let name = format!("policy_name=\"{policy}\"");
        let injected = ["mesh_proxy_faults_total", &name];
        assert_eq!(node.metric(&injected, 1).await, 1, "{policy}");
    }
}

#[tokio::test]
async fn calls_without_a_route_or_backend_fail_in_their_own_words() {
    let (web, _web) = named("web").await;
    let rules = json!([{"matches": [{"path": {"value": "/gone"}}], "backendRefs": to("gone")}]);
    let node = node(registry(web, &[], &[("r", rules)])).await;
    let grpc = "content-type: application/grpc\r\ncontent-length: 0\r\n";
    for (target, status) in [("/x", 12), ("/gone/x", 14)] {
        let response = ask(&node, "POST", target, grpc).await;
        assert!(
            response.contains(&format!("grpc-status: {status}")),
            "{response}"
        );
    }
}

#[tokio::test]
async fn weights_split_and_zero_takes_nothing() {
    let (web, _web) = named("web").await;
    let (canary, _canary) = named("canary").await;
    let (never, _never) = named("never").await;
    let rules = json!([{"backendRefs": [
        {"name": "web", "port": 80, "weight": 3},
        {"name": "canary", "port": 80, "weight": 1},
        {"name": "never", "port": 80, "weight": 0},
    ]}]);
    let others = [("canary", canary), ("never", never)];
    let node = node(registry(web, &others, &[("r", rules)])).await;
    let mut counts = [0_u32; 2];
    for _ in 0..200 {
        let response = get(&node, "/", "").await;
        assert!(!response.contains("never"), "{response}");
        counts[usize::from(response.contains("canary"))] += 1;
    }
    // Five standard deviations of a binomial distribution of 200 and 1/4.
    assert!((19..=81).contains(&counts[1]), "{counts:?}");
}

#[tokio::test]
async fn a_session_outlives_the_weight_of_its_backend() {
    let (web, _web) = named("web").await;
    let (canary, _canary) = named("canary").await;
    let with = |weights: [u32; 2]| {
        let rules = json!([{"sessionPersistence": {"sessionName": "sid"}, "backendRefs": [
            {"name": "web", "port": 80, "weight": weights[0]},
            {"name": "canary", "port": 80, "weight": weights[1]},
        ]}]);
        registry(web, &[("canary", canary)], &[("r", rules)])
    };
    let node = node(with([0, 1])).await;
    let first = get(&node, "/", "").await;
    assert!(first.contains("canary /"), "{first}");
    let cookie = first
        .split_once("sid=")
        .and_then(|(_, it)| it.split_once(';'));
    let cookie = format!("cookie: sid={}\r\n", cookie.expect("a session").0);
    node.change(with([1, 0]));
    let response = get(&node, "/", &cookie).await;
    assert!(response.contains("canary /"), "{response}");
    let response = get(&node, "/", "").await;
    assert!(response.contains("web /"), "{response}");
}

#[tokio::test]
async fn a_session_holds_nobody_at_a_backend_where_nobody_serves() {
    let (web, _web) = named("web").await;
    let (canary, _canary) = named("canary").await;
    let with = |weights: [u32; 2], of_canary: &Value| {
        let rules = json!([{"sessionPersistence": {"sessionName": "sid"}, "backendRefs": [
            {"name": "web", "port": 80, "weight": weights[0]},
            {"name": "canary", "port": 80, "weight": weights[1]},
        ]}]);
        let registry = registry(web, &[("canary", canary)], &[("r", rules)]);
        let mut spec =
            json!({"service": "canary", "address": canary.ip(), "ports": {"main": canary.port()}});
        let more = of_canary.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(more);
        let registry = Fixture::from(registry).endpoint("canary-0", &["main"], &spec);
        registry.snapshot()
    };
    for of_canary in [json!({"lifecycle": "draining"}), json!({"maintenance": {}})] {
        let node = node(with([0, 1], &json!({}))).await;
        let cookie = |response: &str| {
            let value = response
                .split_once("sid=")
                .and_then(|(_, it)| it.split_once(';'));
            format!("cookie: sid={}\r\n", value.expect("a session").0)
        };
        let first = get(&node, "/", "").await;
        assert!(first.contains("canary /"), "{first}");
        node.change(with([1, 0], &of_canary));
        let moved = get(&node, "/", &cookie(&first)).await;
        assert!(moved.contains("web /"), "{moved}");
        let again = get(&node, "/", &cookie(&moved)).await;
        assert!(
            again.contains("web /") && !again.contains("sid="),
            "{again}"
        );
    }
}

#[tokio::test]
async fn a_session_of_a_rule_holds_where_its_path_has_matched() {
    let (web, _web) = named("web").await;
    let (canary, _canary) = named("canary").await;
    let path = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"});
    let rewrite = json!({"type": "URLRewrite", "urlRewrite": {"path": path}});
    let session = json!({"sessionName": "sid"});
    let rules = json!([
        {"matches": [{"path": {"value": "/foo"}}], "sessionPersistence": session,
            "filters": [rewrite], "backendRefs": to("web")},
        {"matches": [{"path": {"type": "Exact", "value": "/bar/x"}}, {"path": {"value": "/other"}}],
            "sessionPersistence": session, "backendRefs": to("canary")},
        {"sessionPersistence": session, "backendRefs": to("web")},
    ]);
    let node = node(registry(web, &[("canary", canary)], &[("r", rules)])).await;
    for (target, answer, path) in [
        ("/foo/a/b?c", "web /new/a/b?c", "/foo"),
        ("/foo", "web /new", "/foo"),
        ("/bar/x", "canary /bar/x", "/bar/x"),
        ("/other/x", "canary /other/x", "/other"),
        ("/", "web /", "/"),
        ("/bar", "web /bar", "/"),
    ] {
        let response = get(&node, target, "").await;
        assert!(response.contains(answer), "{response}");
        let (_, cookie) = response.split_once("set-cookie: sid=").expect("a session");
        let expected = format!("; Path={path}; HttpOnly");
        assert!(cookie.contains(&expected), "{target}: {cookie}");
    }
}

#[tokio::test]
async fn filters_change_requests_and_responses() {
    let (web, _web) = named("web").await;
    let modify = |kind: &str, field: &str, name: &str| {
        json!({"type": kind, field: {"set": [{"name": name, "value": "set"}],
            "add": [{"name": "x-t-add", "value": "more"}], "remove": ["X-T-Remove"]}})
    };
    let request = modify("RequestHeaderModifier", "requestHeaderModifier", "x-t-set");
    let response = modify("ResponseHeaderModifier", "responseHeaderModifier", "x-seen");
    let path = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"});
    let rewrite = json!({"type": "URLRewrite", "urlRewrite": {"hostname": "other", "path": path}});
    let last = json!({"type": "RequestHeaderModifier",
        "requestHeaderModifier": {"set": [{"name": "x-t-set", "value": "backend"}]}});
    let rules = json!([{
        "matches": [{"path": {"value": "/old"}}],
        "filters": [request, response, rewrite],
        "backendRefs": [{"name": "web", "port": 80, "filters": [last]}],
    }]);
    let node = node(registry(web, &[], &[("r", rules)])).await;
    let headers = "x-t-add: one\r\nx-t-remove: x\r\nx-t-set: y\r\n";
    let response = get(&node, "/old/a?q=1", headers).await;
    let expected = "web /new/a?q=1 host=other x-t-add=more x-t-add=one x-t-set=backend";
    assert!(response.contains(expected), "{response}");
    assert!(response.contains("x-seen: set"), "{response}");
}

#[tokio::test]
async fn a_client_cannot_take_off_what_a_rule_sets() {
    let (web, _web) = named("web").await;
    let set = json!([{"name": "x-t-tenant", "value": "ours"}, {"name": "x-forwarded-prefix", "value": "/shop"}]);
    let filter = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": set}});
    let rules = json!([{"filters": [filter], "backendRefs": to("web")}]);
    let node = node(registry(web, &[], &[("r", rules)])).await;
    for headers in [
        "connection: x-t-tenant\r\n",
        "x-forwarded-prefix: /theirs\r\nx-t-tenant: theirs\r\n",
        "x_t_tenant: theirs\r\nx-t_tenant: theirs\r\nx_forwarded_prefix: /theirs\r\n",
    ] {
        let response = get(&node, "/", headers).await;
        let expected = "web / host=web x-forwarded-prefix=/shop x-t-tenant=ours";
        assert!(response.ends_with(expected), "{headers:?}: {response}");
    }
}

#[tokio::test]
async fn the_new_path_of_a_backend_takes_the_place_of_that_of_its_rule() {
    let (web, _web) = named("web").await;
    let rewrite = |path: Value| json!([{"type": "URLRewrite", "urlRewrite": {"path": path}}]);
    let prefix =
        |path: &str| rewrite(json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": path}));
    let full = rewrite(json!({"type": "ReplaceFullPath", "replaceFullPath": "/full"}));
    let rule = |name: &str, filters: &Value| {
        json!({
            "matches": [{"path": {"value": name}}],
            "filters": filters,
            "backendRefs": [{"name": "web", "port": 80, "filters": prefix("/v2")}],
        })
    };
    let rules = json!([
        rule("/foo", &prefix("/longer/x")),
        rule("/bar", &prefix("")),
        rule("/full", &full),
    ]);
    let node = node(registry(web, &[], &[("r", rules)])).await;
    for (target, expected) in [
        ("/foo/a?q=1", "/v2/a?q=1"),
        ("/foo", "/v2"),
        ("/bar", "/v2"),
        ("/bar/a", "/v2/a"),
        ("/full/a", "/v2/a"),
    ] {
        let response = get(&node, target, "").await;
        assert!(
            response.contains(&format!("web {expected} ")),
            "{target}: {response}"
        );
    }
}

#[tokio::test]
async fn redirects_and_preflights_are_answered_by_the_rule() {
    let (web, _web) = named("web").await;
    let redirect = json!({"type": "RequestRedirect",
        "requestRedirect": {"scheme": "https", "hostname": "else", "statusCode": 301}});
    let cors =
        json!({"type": "CORS", "cors": {"allowOrigins": ["http://a"], "allowMethods": ["GET"]}});
    let broken = json!({"type": "RequestHeaderModifier"});
    let rules = json!([
        {"matches": [{"path": {"value": "/r"}}], "filters": [redirect]},
        {"matches": [{"path": {"value": "/c"}}], "filters": [cors], "backendRefs": to("web")},
        {"matches": [{"path": {"value": "/b"}}], "filters": [broken], "backendRefs": to("web")},
    ]);
    let node = node(registry(web, &[], &[("r", rules)])).await;
    let response = get(&node, "/r/x?q", "").await;
    assert!(response.starts_with("HTTP/1.1 301"), "{response}");
    assert!(
        response.contains("location: https://else/r/x?q\r\n"),
        "{response}"
    );
    let wanted = "origin: http://a\r\naccess-control-request-method: GET\r\n";
    let response = ask(&node, "OPTIONS", "/c", wanted).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(
        response.contains("access-control-allow-methods: GET"),
        "{response}"
    );
    assert!(!response.contains("web /c"), "{response}");
    let response = get(&node, "/c", "origin: http://a\r\n").await;
    assert!(
        response.contains("access-control-allow-origin: http://a"),
        "{response}"
    );
    assert!(response.contains("web /c"), "{response}");
    let response = get(&node, "/b", "").await;
    assert!(response.starts_with("HTTP/1.1 500"), "{response}");
    assert!(response.contains("x-mesh-error: bad-filter"), "{response}");
}

#[tokio::test]
async fn redirects_are_marked_as_answers_of_endpoints_are() {
    let (web, _web) = named("web").await;
    let seen = |name: &str| {
        json!({"type": "ResponseHeaderModifier",
        "responseHeaderModifier": {"set": [{"name": name, "value": "yes"}]}})
    };
    let cors = json!({"type": "CORS", "cors": {"allowOrigins": ["http://a"]}});
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "else"}});
    let rules = json!([
        {"matches": [{"path": {"value": "/r"}}], "filters": [redirect, seen("x-rule"), cors]},
        {"filters": [seen("x-rule"), cors], "backendRefs":
            [{"name": "web", "port": 80, "filters": [redirect, seen("x-backend")]}]},
    ]);
    let node = node(registry(web, &[], &[("r", rules)])).await;
    let origin = "origin: http://a\r\n";
    for (target, marks) in [("/r", &["x-rule"][..]), ("/b", &["x-rule", "x-backend"])] {
        let response = get(&node, target, origin).await;
        assert!(response.starts_with("HTTP/1.1 302"), "{response}");
        for mark in marks {
            assert!(response.contains(&format!("{mark}: yes")), "{response}");
        }
        let allowed = response.matches("access-control-allow-origin: http://a\r\n");
        assert_eq!(allowed.count(), 1, "{response}");
    }
    let asked = "origin: http://a\r\naccess-control-request-method: GET\r\n";
    let response = ask(&node, "OPTIONS", "/r", asked).await;
    assert!(response.contains("x-rule: yes"), "{response}");
}

#[tokio::test]
async fn a_rule_that_comes_before_another_leaves_it_what_it_has_counted() {
    let (web, _web) = named("web").await;
    let rule = |name: &str| json!({"name": name, "matches": [{"path": {"value": format!("/{name}")}}], "backendRefs": to("web")});
    let with = |rules: &[&str]| {
        let rules: Vec<_> = rules.iter().map(|name| rule(name)).collect();
        let target = json!({"kind": "HTTPRoute", "name": "r", "sectionName": "b"});
        let limit = json!({"target": target, "rateLimits": [{"requests": 1, "per": "1h"}]});
        let registry = Fixture::from(registry(web, &[], &[("r", json!(rules))]));
        registry.object::<TrafficPolicy>("p", &limit).snapshot()
    };
    let node = node(with(&["b"])).await;
    assert!(get(&node, "/b", "").await.contains("web /b"));
    for rules in [&["b"][..], &["a", "b"], &["b", "a"]] {
        node.change(with(rules));
        let response = get(&node, "/b", "").await;
        assert!(
            response.starts_with("HTTP/1.1 429"),
            "{rules:?}: {response}"
        );
    }
}

#[tokio::test]
async fn a_route_that_changes_under_load_fails_no_request() {
    let (web, _web) = named("web").await;
    let (canary, _canary) = named("canary").await;
    let others = [("canary", canary)];
    let with = |name| registry(web, &others, &[("r", json!([{"backendRefs": to(name)}]))]);
    let node = node(with("web")).await;
    for round in 0..40 {
        let name = if round % 2 == 0 { "canary" } else { "web" };
        let (response, ()) = tokio::join!(get(&node, "/", ""), async { node.change(with(name)) });
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(get(&node, "/", "").await.contains(name));
    }
}

//! What is told of where a request would go.

use serde_json::{Value, json};

use super::fixture::{DIALLED, Node, http1_server, nobody, snapshot, text};
use super::routes::{registry, to};
use super::streams;
use crate::state::http_route::HttpRoute;
use crate::state::object::ObjectKey;
use crate::state::report::{BackendExplanation, RequestExplanation, RequestQuestion};
use crate::state::stream_route::{TcpRoute, TlsRoute};
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";

/// What is told of a request to the service.
fn explain(
    node: &Node,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
) -> RequestExplanation {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let question = RequestQuestion {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: headers.iter().map(owned).collect(),
    };
    let source = ObjectKey::new("shop", "client");
    let explained = node.proxy().explain(&source, DIALLED, Some(&question));
    explained.expect("a request").expect("a service")
}

/// What is told of a connection to the service.
fn explain_connection(node: &Node) -> Option<RequestExplanation> {
    let source = ObjectKey::new("shop", "client");
    let explained = node.proxy().explain(&source, DIALLED, None);
    explained.expect("nothing is wrong with no question")
}

/// The only backend of a request to the service.
fn backend(node: &Node) -> BackendExplanation {
    let mut backends = explain(node, ("GET", "/"), &[]).backends.into_iter();
    backends.next().expect("a backend")
}

/// Services with their shares.
fn shares(explained: &RequestExplanation) -> Vec<(&str, u64)> {
    let backends = explained.backends.iter();
    backends
        .map(|it| (it.service.as_str(), it.weight))
        .collect()
}

/// The endpoints, and how they are.
fn candidates(backend: &BackendExplanation) -> Vec<(&str, &str)> {
    let endpoints = backend.endpoints.iter();
    endpoints
        .map(|it| (it.name.as_str(), it.state.as_str()))
        .collect()
}

#[tokio::test]
async fn only_endpoints_of_the_subsets_are_candidates() {
    let (endpoint, _server) = http1_server(|_| text("hello")).await;
    let version = |it: u32| json!({"version": format!("v{it}")});
    let none = json!({"version": "v0", "weight": 0});
    let spec = json!({"loadBalancing": {"subsets": [version(1), none]}});
    let node = Node::guarded("http", &[endpoint, endpoint, endpoint], &spec);
    assert_eq!(candidates(&backend(&node)), [("shop/web-1", "ready")]);
}

#[tokio::test]
async fn open_breaker_of_an_endpoint_is_its_state() {
    let (endpoint, _server) = http1_server(|_| {
        let mut answer = text("sorry");
        *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
    .await;
    let spec = json!({"circuitBreaker": {"failures": {"consecutive": 1, "openFor": "60s"}}});
    let node = Node::guarded("http", &[endpoint], &spec);
    assert_eq!(candidates(&backend(&node)), [("shop/web-0", "ready")]);
    node.raw(GET).await;
    assert_eq!(
        candidates(&backend(&node)),
        [("shop/web-0", "breaker-open")]
    );
}

#[tokio::test]
async fn services_that_take_over_are_shown_in_order() {
    let (endpoint, spare) = (nobody().await, nobody().await);
    let service = |port: Value| json!({"addresses": [], "ports": [port]});
    let port = json!({"name": "main", "port": DIALLED.port(), "protocol": "http"});
    let other = json!({"name": "main", "port": DIALLED.port(), "protocol": "tcp"});
    let failover = json!([{"service": "other"}, {"service": "spare"}]);
    let target = json!({"kind": "Service", "name": "web"});
    let registry = Fixture::from(snapshot("http", &[endpoint]))
        .service("other", &service(other))
        .service("spare", &service(port))
        .endpoint(
            "spare-0",
            &["main"],
            &json!({"service": "spare", "address": spare.ip(), "ports": {"main": spare.port()}}),
        )
        .object::<TrafficPolicy>(
            "p",
            &json!({"target": target, "loadBalancing": {"failover": failover}}),
        );
    let node = Node::start("http", &[endpoint]);
    node.change(registry.snapshot());
    let shown = backend(&node).failover;
    let [other, spare] = shown.as_slice() else {
        panic!("{shown:?}");
    };
    let service = |name: &str| format!("shop/{name}:{}", DIALLED.port());
    assert_eq!(
        (&other.service, other.is_missing),
        (&service("other"), true)
    );
    assert_eq!(
        (&spare.service, spare.is_missing),
        (&service("spare"), false)
    );
    assert_eq!(spare.endpoints[0].name, "shop/spare-0");
}

#[tokio::test]
async fn who_may_not_go_where_a_route_sends_is_told_so() {
    let (web, _web) = http1_server(|_| text("web")).await;
    let (b, _b) = http1_server(|_| text("b")).await;
    let rules = json!([{"backendRefs": to("b")}]);
    let routed = registry(web, &[("b", b)], &[("r", rules)]);
    let target = json!({"kind": "Service", "name": "b"});
    let closed = Fixture::from(routed.clone())
        .policy("closed", &json!({"target": target, "action": "Allow"}));
    let node = Node::start("http", &[web]);
    node.change(routed);
    assert!(node.raw(GET).await.starts_with("HTTP/1.1 200"));
    assert_eq!(candidates(&backend(&node)), [("shop/b-0", "ready")]);
    node.change(closed.snapshot());
    assert!(node.raw(GET).await.starts_with("HTTP/1.1 403"));
    assert_eq!(candidates(&backend(&node)), [("shop/b-0", "denied")]);
    let explained = explain(&node, ("GET", "/"), &[]);
    assert_eq!(explained.authorization, ["shop/closed"]);
}

#[tokio::test]
async fn who_is_admitted_by_identity_or_address_is_told_so() {
    let (web, _web) = http1_server(|_| text("web")).await;
    let admits = |from: Value| {
        let target = json!({"kind": "Service", "name": "web"});
        let spec = json!({"target": target, "action": "Allow", "rules": [{"from": [from]}]});
        let client = json!({"netns": "/n", "addresses": ["10.0.0.2"], "serviceAccount": "browser"});
        let registry = Fixture::from(snapshot("http", &[web]));
        let registry = registry.workload("client", &client).policy("p", &spec);
        let node = Node::start("http", &[web]);
        node.change(registry.snapshot());
        let state = &backend(&node).endpoints[0].state;
        state == "ready"
    };
    assert!(admits(json!({"serviceAccounts": ["browser"]})));
    assert!(!admits(json!({"serviceAccounts": ["other"]})));
    assert!(admits(json!({"cidrs": ["10.0.0.0/30"]})));
    assert!(!admits(json!({"cidrs": ["10.0.1.0/24"]})));
}

#[tokio::test]
async fn tcp_routes_are_told_of() {
    let (web, next) = (nobody().await, nobody().await);
    for protocol in ["auto", "tcp"] {
        let registry = streams::registry(protocol, web, &[("db-next", next)]);
        let node = Node::start(protocol, &[web]);
        assert_eq!(explain_connection(&node), None);
        let to = json!([
            {"name": "db-next", "port": 80, "weight": 3},
            {"name": "gone", "port": 80},
        ]);
        let route = streams::route(&[], to);
        node.change(registry.object::<TcpRoute>("r", &route).snapshot());
        let asked = explain(&node, ("GET", "/"), &[]);
        let told = explain_connection(&node);
        assert_eq!(told.as_ref(), Some(&asked), "{protocol}");
        assert_eq!(asked.rule.as_deref(), Some("shop/r/0"));
        assert_eq!(asked.reason, "opaque");
        assert_eq!(
            shares(&asked),
            [("shop/db-next:80", 3), ("shop/gone:80", 1)]
        );
        assert_eq!(
            candidates(&asked.backends[0]),
            [("shop/db-next-0", "ready")]
        );
        assert!(asked.backends[1].is_missing);
    }
}

#[tokio::test]
async fn tls_routes_are_told_of_by_name() {
    let (web, a) = (nobody().await, nobody().await);
    let route = |host: &str, to: &str| streams::route(&[host], json!([{"name": to, "port": 80}]));
    let registry = streams::registry("tls", web, &[("a", a), ("b", web)])
        .object::<TlsRoute>("one", &route("a.example", "a"))
        .object::<TlsRoute>("two", &route("*.example", "b"));
    let node = Node::start("tls", &[web]);
    node.change(registry.snapshot());
    let named = |host: &str| explain(&node, ("GET", "/"), &[("host", host)]);
    let told = named("A.example:443");
    assert_eq!(
        (told.rule.as_deref(), shares(&told)),
        (Some("shop/one/0"), vec![("shop/a:80", 1)])
    );
    assert_eq!(shares(&named("x.example")), [("shop/b:80", 1)]);
    let told = named("elsewhere");
    assert_eq!((told.reason.as_str(), shares(&told)), ("no-route", vec![]));
    let told = explain_connection(&node).expect("routes decide");
    let mut names: Vec<_> = told.backends.iter().map(|it| it.names.clone()).collect();
    names.sort();
    assert_eq!(names, [["*.example"], ["a.example"]]);
}

#[tokio::test]
async fn tls_routes_of_what_may_be_http_are_told_of_too() {
    let (web, a) = (nobody().await, nobody().await);
    let to = json!([{"name": "a", "port": 80}]);
    let registry = streams::registry("auto", web, &[("a", a)])
        .object::<TlsRoute>("one", &streams::route(&["a.example"], to));
    let node = Node::start("auto", &[web]);
    node.change(registry.snapshot());
    let told = explain_connection(&node).expect("a route decides");
    assert_eq!(
        (told.reason.as_str(), shares(&told)),
        ("opaque", vec![("shop/a:80", 1)])
    );
    let asked = explain(&node, ("GET", "/"), &[]);
    assert_eq!(asked.reason, "no-routes", "it is for TLS");
}

#[tokio::test]
async fn hosts_are_judged_as_those_of_requests() {
    let web = nobody().await;
    let rules = json!([{"matches": [{"path": {"value": "/"}}], "backendRefs": to("web")}]);
    let spec = json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "hostnames": ["web.example"],
        "rules": rules,
    });
    let routed = Fixture::from(snapshot("http", &[web])).object::<HttpRoute>("r", &spec);
    let node = Node::start("http", &[web]);
    node.change(routed.snapshot());
    let told = |host: &str| {
        let told = explain(&node, ("GET", "/"), &[("host", host)]);
        (told.status, told.reason)
    };
    for host in ["web.example", "Web.Example.:80", "web.example:"] {
        assert_eq!(told(host), (None, "route".to_owned()), "{host}");
    }
    assert_eq!(told("[::1]"), (Some(404), "no-route".to_owned()));
    for host in ["web.example:http", "me@web.example"] {
        let (status, reason) = told(host);
        assert_eq!(status, Some(400), "{host}");
        assert!(
            reason.starts_with("bad-request: the host is not"),
            "{reason}"
        );
    }
    let anyone = explain(&node, ("OPTIONS", "*"), &[("host", "other")]);
    assert_eq!(anyone.status, Some(404), "no path is needed there");
}

#[tokio::test]
async fn a_limit_of_retries_is_that_of_an_attempt() {
    let endpoint = nobody().await;
    let spec = json!({"timeouts": {"backendRequest": "9s"},
        "retries": {"on": ["timeout"], "perTryTimeout": "2s"}});
    let node = Node::guarded("http", &[endpoint], &spec);
    let explained = explain(&node, ("GET", "/"), &[]);
    assert_eq!(explained.attempt_timeout_millis, Some(2_000));
}

#[tokio::test]
async fn what_the_proxy_answers_itself_is_told_with_its_status() {
    let web = nobody().await;
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 301}});
    let cors = json!({"type": "CORS", "cors": {"allowOrigins": ["http://a"]}});
    let broken = json!({"type": "RequestHeaderModifier"});
    let share = |filter: &Value| json!([{"name": "web", "port": 80, "filters": [filter]}]);
    let rules = json!([
        {"matches": [{"path": {"value": "/redirect"}}], "filters": [redirect]},
        {"matches": [{"path": {"value": "/share"}}], "backendRefs": share(&redirect)},
        {"matches": [{"path": {"value": "/broken"}}], "backendRefs": share(&broken)},
        {"matches": [{"path": {"value": "/cors"}}], "filters": [cors], "backendRefs": to("web")},
    ]);
    let node = Node::start("http", &[web]);
    node.change(registry(web, &[], &[("r", rules)]));
    let told = |method: &str, path: &str, headers: &[(&str, &str)]| {
        let told = explain(&node, (method, path), headers);
        let share = told.backends.first().and_then(|it| it.status);
        (told.status, told.reason, share)
    };
    let why = |reason: &str| reason.to_owned();
    let none: &[(&str, &str)] = &[];
    assert_eq!(
        told("GET", "/redirect", none),
        (Some(301), why("redirect"), None)
    );
    assert_eq!(told("GET", "/share", none), (None, why("route"), Some(301)));
    assert_eq!(
        told("GET", "/broken", none),
        (None, why("route"), Some(500))
    );
    let preflight = [
        ("origin", "http://a"),
        ("access-control-request-method", "PUT"),
    ];
    assert_eq!(
        told("OPTIONS", "/cors", &preflight),
        (Some(200), why("preflight"), None)
    );
    assert_eq!(told("GET", "/cors", &preflight), (None, why("route"), None));
}

#[tokio::test]
async fn filters_are_named_as_in_the_gateway_api() {
    let web = nobody().await;
    let set = json!({"set": [{"name": "x-a", "value": "1"}]});
    let mirror = json!({"backendRef": {"name": "shadow", "port": 80}, "percent": 5});
    let rules = json!([{
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": set},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": set},
            {"type": "URLRewrite", "urlRewrite": {"hostname": "other"}},
            {"type": "CORS", "cors": {"allowOrigins": ["http://a"]}},
            {"type": "RequestMirror", "requestMirror": mirror},
        ],
        "backendRefs": [{"name": "web", "port": 80,
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": set}]}],
    }]);
    let node = Node::start("http", &[web]);
    node.change(registry(web, &[("shadow", web)], &[("r", rules)]));
    let told = explain(&node, ("GET", "/"), &[]);
    assert_eq!(
        told.filters,
        [
            "RequestHeaderModifier",
            "ResponseHeaderModifier",
            "URLRewrite",
            "CORS",
            "RequestMirror 5/100 to shop/shadow",
        ]
    );
    assert_eq!(told.backends[0].filters, ["RequestHeaderModifier"]);
}

//! Retries, deadlines, hedges, circuit breakers, outliers and health checks, through a real agent.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_tests::assert_eventually;
use mesh_tests::protocol::{HttpAnswer, ServerKind};
use mesh_tests::registry::{endpoint, object, service};
use serde_json::{Value, json};

use crate::shop::{CACHE_PORT, Shop, WEB, cache, steady, web};

/// Port of the web servers.
const PORT: u16 = 8_080;

/// A web service over IPv4 with so many servers, and a traffic policy.
#[track_caller]
fn open(servers: usize, policy: &Value) -> Option<Shop> {
    let shop = Shop::open(servers)?;
    let mut objects = vec![service("web", &["240.240.0.10"], "http", 80, "http")];
    for (index, pod) in shop.servers.iter().enumerate() {
        let name = format!("web-{}", index + 1);
        pod.serve_http(&name, PORT);
        objects.push(endpoint(&name, "web", pod.v4(), "http", PORT));
    }
    objects.push(guard("web", policy));
    shop.node.apply(&objects);
    Some(shop)
}

/// A traffic policy for a service.
fn guard(service: &str, fields: &Value) -> Value {
    let mut spec = fields.clone();
    spec["target"] = json!({"kind": "Service", "name": service});
    object("TrafficPolicy", service, &spec)
}

#[track_caller]
fn ask(shop: &Shop, headers: &[(&str, &str)]) -> HttpAnswer {
    shop.client.request("GET", WEB, headers, "").unwrap()
}

/// Who answers so many requests.
#[track_caller]
fn hits(shop: &Shop, requests: u32) -> BTreeMap<String, u32> {
    let mut hits = BTreeMap::new();
    for _ in 0..requests {
        let server = ask(shop, &[]).header("x-server").to_owned();
        *hits.entry(server).or_default() += 1;
    }
    hits
}

fn count(shop: &Shop, family: &str, labels: &[(&str, &str)]) -> f64 {
    shop.node.metrics().sum(family, labels)
}

/// The word for an endpoint, and what was seen of it.
fn health(shop: &Shop, endpoint: &str) -> (String, String) {
    let path = format!("/api/v1/namespaces/shop/endpoints/{endpoint}");
    let health = &shop.node.api().get(&path)["status"]["health"];
    let text = |name: &str| health[name].as_str().unwrap_or_default().to_owned();
    (text("status"), text("output"))
}

fn is(shop: &Shop, endpoint: &str, word: &str) -> bool {
    health(shop, endpoint).0 == word
}

#[test]
fn a_bad_answer_is_tried_elsewhere() {
    let Some(mut shop) = open(2, &json!({"retries": {"on": ["5xx"]}})) else {
        return;
    };
    let ask_bad = || {
        let answer = ask(&shop, &[("x-only", "web-1"), ("x-status", "503")]);
        assert_eq!((answer.status, answer.header("x-server")), (200, "web-2"));
    };
    for _ in 0..10 {
        ask_bad();
    }
    // The choice is random: all may have gone to the good one, or have used up the budget of this second.
    assert_eventually!({
        ask_bad();
        count(&shop, "mesh_proxy_retries_total", &[("reason", "status")]) > 0.0
    });
    assert_eventually!(count(&shop, "mesh_proxy_retries_budget", &[("service", "web")]) > 0.0);
    let agent = shop.node.agent();
    assert_eventually!(agent.log().contains(r#""attempts":2"#));
}

#[test]
fn a_retry_storm_is_impossible() {
    let policy = json!({"retries": {"attempts": 3, "on": ["5xx"], "backoff": {"base": "1ms", "max": "1ms"}}});
    let Some(shop) = open(3, &policy) else {
        return;
    };
    let requests = 400;
    let started = Instant::now();
    for _ in 0..requests {
        assert_eq!(ask(&shop, &[("x-status", "503")]).status, 503);
    }
    // A fifth of the requests, and where they come slowly ten in any second that they touch.
    let seconds = started.elapsed().as_secs_f64().ceil() + 1.0;
    let most = 0.2 * f64::from(requests) + 10.0 * seconds;
    let retries = count(&shop, "mesh_proxy_retries_total", &[]);
    assert!(retries > 0.0 && retries <= most, "{retries} of {most}");
    let flagged = [("response_flags", "URX")];
    assert_eventually!(count(&shop, "istio_requests_total", &flagged) > 0.0);
}

#[test]
fn one_slow_server_of_three_is_hedged() {
    let Some(shop) = open(3, &json!({"hedging": {"after": "p95"}})) else {
        return;
    };
    let slow = [("x-only", "web-1"), ("x-delay-ms", "60")];
    let requests = 250;
    for _ in 0..requests {
        assert_eq!(ask(&shop, &slow).status, 200);
    }
    let of = |outcome| count(&shop, "mesh_proxy_hedges_total", &[("outcome", outcome)]);
    let (sent, won) = (of("sent"), of("won"));
    assert!(sent > 0.0 && won > 0.0 && won <= sent, "{sent} {won}");
    assert!(sent <= 0.1 * f64::from(requests), "{sent}");
}

#[test]
fn a_breaker_opens_tries_and_closes() {
    let policy = json!({"circuitBreaker": {"failures": {"per": "Service", "consecutive": 4, "openFor": "4s"}}});
    let Some(mut shop) = open(1, &policy) else {
        return;
    };
    for _ in 0..4 {
        assert_eq!(ask(&shop, &[("x-status", "500")]).status, 500);
    }
    let answer = ask(&shop, &[]);
    assert_eq!(
        (answer.status, answer.header("x-mesh-error")),
        (503, "breaker-open")
    );
    let breaker = &shop.node.api().get("/api/v1/breakers")["items"][0];
    assert_eq!(
        (&breaker["name"], &breaker["state"]),
        (&json!("web"), &json!("open"))
    );
    assert_eq!(breaker["openings"], json!(1));
    let state = || {
        count(
            &shop,
            "mesh_breaker_state",
            &[("service", "web"), ("scope", "Service")],
        )
    };
    assert_eq!(state().to_string(), "2");
    assert_eventually!(ask(&shop, &[]).status == 200);
    assert_eq!(state().to_string(), "0");
    assert_eq!(
        count(&shop, "mesh_breaker_changes_total", &[]).to_string(),
        "3"
    );
    let agent = shop.node.agent();
    assert_eventually!(agent.log().matches("circuit breaker changed").count() == 3);
    assert_eventually!(agent.log().contains(r#""reason":"breaker-open""#));
}

#[test]
fn an_outlier_is_put_aside_and_comes_back() {
    let policy =
        json!({"outlierDetection": {"consecutive5xx": 3, "baseEjection": "5s", "interval": "1s"}});
    let Some(mut shop) = open(2, &policy) else {
        return;
    };
    let sick = [("x-only", "web-1"), ("x-status", "500")];
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut failed = 0;
    while failed < 3 {
        assert!(Instant::now() < deadline, "web-1 is never asked");
        failed += u32::from(ask(&shop, &sick).status == 500);
    }
    assert_eq!(hits(&shop, 10), [("web-2".to_owned(), 10)].into());
    let labels = [("reason", "consecutive-5xx")];
    assert_eq!(
        count(&shop, "mesh_proxy_ejections_total", &labels).to_string(),
        "1"
    );
    assert_eventually!(is(&shop, "web-1", "warning"));
    assert_eventually!(is(&shop, "web-1", "passing"));
    assert_eventually!(hits(&shop, 10).len() == 2);
    assert_eventually!(shop.node.agent().log().contains("endpoint put aside"));
}

/// A check that shows what it sees quickly, and yet gives a busy machine time to answer.
fn quick(kind: &str, check: &Value) -> Value {
    let mut fields = json!({"interval": "500ms", "timeout": "500ms", "healthyThreshold": 1, "unhealthyThreshold": 2});
    fields[kind] = check.clone();
    json!({"healthCheck": fields})
}

#[test]
fn a_server_that_fails_its_check_gets_no_requests() {
    let well = quick("http", &json!({"path": "/sick/nobody/503"}));
    let Some(mut shop) = open(2, &well) else {
        return;
    };
    for endpoint in ["web-1", "web-2"] {
        assert_eventually!(is(&shop, endpoint, "passing"));
    }
    assert_eq!(hits(&shop, 20).len(), 2);
    let sick = quick("http", &json!({"path": "/sick/web-2/503"}));
    shop.node.apply(&[guard("web", &sick)]);
    assert_eventually!(is(&shop, "web-2", "critical"));
    assert_eq!(
        health(&shop, "web-2").1,
        "GET /sick/web-2/503: 503 Service Unavailable"
    );
    assert_eq!(hits(&shop, 20), [("web-1".to_owned(), 20)].into());
    assert!(
        count(
            &shop,
            "mesh_proxy_health_checks_total",
            &[("outcome", "bad")]
        ) > 0.0
    );
    let text = quick(
        "http",
        &json!({"path": "/sick/web-2/503", "statuses": ["200", "503"], "body": "\"server\":\"web-"}),
    );
    shop.node.apply(&[guard("web", &text)]);
    assert_eventually!(is(&shop, "web-2", "passing"));
    assert_eventually!(hits(&shop, 20).len() == 2);
    assert_eventually!(shop.node.agent().log().contains("endpoint is unwell"));
    // Where nobody looks any more nothing is known, and nobody is left alone for what was.
    shop.node.apply(&[guard("web", &sick)]);
    assert_eventually!(is(&shop, "web-2", "critical"));
    shop.node.apply(&[guard(
        "web",
        &json!({"outlierDetection": {"consecutive5xx": 5}}),
    )]);
    assert_eventually!(is(&shop, "web-2", "passing"));
    assert_eventually!(hits(&shop, 20).len() == 2);
    shop.node.apply(&[guard("web", &sick)]);
    assert_eventually!(is(&shop, "web-2", "critical"));
    shop.node.delete(&guard("web", &sick));
    assert_eventually!(health(&shop, "web-2").0.is_empty());
    assert_eventually!(hits(&shop, 20).len() == 2);
}

#[test]
fn direct_services_leave_a_server_that_fails_its_check() {
    let Some(shop) = Shop::open(2) else { return };
    let cache_service = service("cache", &["240.240.0.20"], "tcp", 6_379, "tcp");
    let running = shop.servers[1].serve(ServerKind::Echo, CACHE_PORT);
    shop.servers[0].serve_echo(CACHE_PORT);
    let v4 = |index: usize| shop.servers[index].v4();
    shop.node.apply(&[
        cache_service,
        endpoint("cache-1", "cache", v4(0), "tcp", CACHE_PORT),
        endpoint("cache-2", "cache", v4(1), "tcp", CACHE_PORT),
        guard("cache", &quick("tcp", &json!({}))),
    ]);
    assert_eventually!(is(&shop, "cache-1", "passing") && is(&shop, "cache-2", "passing"));
    running.stop();
    assert_eventually!(is(&shop, "cache-2", "critical"));
    shop.node.settle();
    let direct = || shop.coverage()["direct"].as_u64().unwrap();
    let before = direct();
    for _ in 0..20 {
        shop.client.connect(cache()).unwrap().echo("hello").unwrap();
    }
    assert!(direct() >= before + 20);
    shop.servers[1].serve_echo(CACHE_PORT);
    assert_eventually!(is(&shop, "cache-2", "passing"));
}

#[test]
fn the_health_protocol_of_grpc_is_asked() {
    let Some(shop) = Shop::open(2) else { return };
    let mut objects = vec![service("grpc", &["240.240.0.11"], "grpc", 80, "grpc")];
    for (index, pod) in shop.servers.iter().enumerate() {
        let name = format!("web-{}", index + 1);
        pod.serve_http(&name, PORT);
        objects.push(endpoint(&name, "grpc", pod.v4(), "grpc", PORT));
    }
    objects.push(guard("grpc", &quick("grpc", &json!({"service": "web-2"}))));
    shop.node.apply(&objects);
    assert_eventually!(is(&shop, "web-1", "passing"));
    assert_eventually!(is(&shop, "web-2", "critical"));
    assert_eq!(health(&shop, "web-1").1, "Health/Check: serving");
    assert_eq!(health(&shop, "web-2").1, "Health/Check: not serving");
    for _ in 0..10 {
        assert_eq!(call(&shop, &[]).header("x-server"), "web-1");
    }
}

/// A gRPC call.
#[track_caller]
fn call(shop: &Shop, headers: &[(&str, &str)]) -> HttpAnswer {
    let mut fields = vec![("content-type", "application/grpc"), ("te", "trailers")];
    fields.extend(headers);
    let url = "http://240.240.0.11/a.B/C";
    shop.client
        .request_http2("POST", url, &fields, "message")
        .unwrap()
}

#[test]
fn deadlines_are_kept_and_passed_on() {
    let Some(mut shop) = open(1, &json!({"timeouts": {"request": "200ms"}})) else {
        return;
    };
    shop.node.apply(&[
        service("grpc", &["240.240.0.11"], "grpc", 80, "grpc"),
        endpoint("grpc-1", "grpc", shop.server().v4(), "grpc", PORT),
    ]);
    let started = Instant::now();
    let answer = ask(&shop, &[("x-delay-ms", "5000")]);
    assert_eq!(
        (answer.status, answer.header("x-mesh-error")),
        (504, "deadline")
    );
    assert!(started.elapsed() < Duration::from_secs(3));
    let answer = call(&shop, &[("grpc-timeout", "20S")]);
    let seen = answer.header("x-grpc-timeout");
    let micros: u64 = seen.strip_suffix('u').unwrap().parse().unwrap();
    assert!((15_000_000..20_000_000).contains(&micros), "{seen}");
    let started = Instant::now();
    let answer = call(&shop, &[("grpc-timeout", "150m"), ("x-delay-ms", "5000")]);
    assert_eq!(answer.header("grpc-status"), "4");
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eventually!(count(&shop, "istio_requests_total", &[("response_flags", "UT")]) > 1.0);
    let agent = shop.node.agent();
    assert_eventually!(agent.log().matches(r#""reason":"deadline""#).count() == 2);
}

#[test]
fn a_policy_that_changes_under_load_fails_no_request() {
    let Some(shop) = open(2, &json!({})) else {
        return;
    };
    let load = shop.client.load(steady(true, web(), true));
    let policies = [
        json!({"loadBalancing": {"algorithm": "PeakEwma", "slowStart": {"window": "1s"}}}),
        json!({"retries": {"attempts": 1, "on": ["5xx"]}, "hedging": {"after": "p95"},
            "outlierDetection": {"consecutive5xx": 3}}),
        json!({"circuitBreaker": {"maxConnections": 64, "failures": {"per": "Service"}},
            "rateLimits": [{"requests": 1_000_000, "per": "1s"}], "adaptiveConcurrency": {}}),
        json!({"healthCheck": {"http": {"path": "/"}, "interval": "100ms", "timeout": "100ms"},
            "priority": "High", "timeouts": {"request": "5s"}}),
    ];
    for round in 0..20 {
        let policy = guard("web", &policies[round % policies.len()]);
        shop.node.apply(std::slice::from_ref(&policy));
        hits(&shop, 10);
        if round % 5 == 4 {
            shop.node.delete(&policy);
        }
    }
    let report = load.stop();
    assert_eq!(report.failed, 0, "{report:?}");
    assert_eq!(report.by_server.len(), 2, "{report:?}");
}

//! Limits, fairness and faults through a real agent: the answer, the metric and the log.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::assert_eventually;
use mesh_tests::protocol::{Load, Report, ServerKind};
use mesh_tests::registry::{endpoint, object, service};
use serde_json::{Value, json};

use crate::shop::{Shop, WEB, web};

/// Puts a policy for a service in force. A request that is marked shows when the proxy has it.
#[track_caller]
fn put(shop: &Shop, mut spec: Value) {
    spec["target"] = json!({"kind": "Service", "name": "web"});
    let mark = shop.node.api().get("/api/v1/status")["revision"].to_string();
    let probe = json!({"headers": [{"name": "x-mark", "value": mark}], "abort": {"status": 418}});
    match spec["faults"].as_array_mut() {
        Some(faults) => faults.push(probe),
        None => spec["faults"] = json!([probe]),
    }
    shop.node.apply(&[object("TrafficPolicy", "web", &spec)]);
    assert_eventually!({
        let answer = shop.client.request("GET", WEB, &[("x-mark", &mark)], "");
        answer.is_ok_and(|answer| answer.status == 418)
    });
}

fn load(address: SocketAddr, connections: u64, pause_micros: u64, millis: u64) -> Load {
    Load {
        http: true,
        address,
        connections,
        keep_alive: true,
        millis,
        pause_micros,
    }
}

#[test]
fn a_rate_limit_is_exact_on_the_node_and_says_what_is_left() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_web();
    let other = shop.node.pod("other");
    shop.node.enrol(&other);
    let limit = json!({"requests": 100, "per": "1s", "burst": 50, "by": ["sourceWorkload"]});
    put(&shop, json!({"rateLimits": [limit]}));
    for pod in [&shop.client, &other] {
        let report = pod.load(load(web(), 8, 0, 2_000)).wait();
        let seconds = Duration::from_micros(report.elapsed_micros).as_secs_f64();
        let most = (50.0 + 100.0 * seconds).ceil() as u64;
        assert!(
            report.succeeded <= most,
            "{} of {most}: {report:?}",
            report.succeeded
        );
        assert!(
            report.succeeded * 10 >= most * 9,
            "{} of {most}: {report:?}",
            report.succeeded
        );
        assert_eq!(only_error(&report), "429 Too Many Requests rate-limited");
    }
    let answer = refused(&shop, false);
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.header("ratelimit-policy"), "\"web\";q=100;w=1");
    assert_eq!(answer.header("ratelimit"), "\"web\";r=0;t=1");
    assert_eq!(answer.header("ratelimit-remaining"), "0");
    let call = refused(&shop, true);
    assert_eq!((call.status, call.header("grpc-status")), (200, "8"));
    let labels = [
        ("policy_name", "web"),
        ("limit", "requests"),
        ("outcome", "refused"),
    ];
    assert_eventually!(
        shop.node
            .metrics()
            .sum("mesh_proxy_rate_limited_total", &labels)
            > 10.0
    );
    assert_eventually!({
        let log = shop.node.agent().log();
        log.contains("\"reason\":\"rate-limited\"") && log.contains("\"flags\":\"RL\"")
    });
}

/// Asks until it is refused.
#[track_caller]
fn refused(shop: &Shop, is_grpc: bool) -> mesh_tests::protocol::HttpAnswer {
    let load = shop.client.load(load(web(), 4, 0, 10_000));
    let headers: &[_] = if is_grpc {
        &[("content-type", "application/grpc")]
    } else {
        &[]
    };
    let mut last = None;
    assert_eventually!({
        let answer = shop.client.request("POST", WEB, headers, "").unwrap();
        let is_refused = !answer.header("x-mesh-error").is_empty();
        last = is_refused.then_some(answer);
        is_refused
    });
    drop(load.stop());
    last.unwrap()
}

#[track_caller]
fn only_error(report: &Report) -> &str {
    assert_eq!(report.errors.len(), 1, "{report:?}");
    let error = report.errors.keys().next().unwrap();
    error.rsplit_once(": ").map_or(error, |(_, error)| error)
}

#[test]
fn smoothing_delays_instead_of_refusing() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let limit =
        json!({"requests": 50, "per": "1s", "burst": 1, "mode": "Smooth", "maxDelay": "2s"});
    put(&shop, json!({"rateLimits": [limit]}));
    // A busy machine may leave some of what there is, once.
    let is_used = || {
        let report = shop.client.load(load(web(), 8, 0, 2_000)).wait();
        assert_eq!(report.failed, 0, "{report:?}");
        let seconds = Duration::from_micros(report.elapsed_micros).as_secs_f64();
        let most = (1.0 + 50.0 * seconds).ceil() as u64;
        assert!(report.succeeded <= most, "{report:?}");
        report.succeeded * 10 >= most * 8
    };
    assert_eventually!(is_used(), Duration::from_secs(20));
    let labels = [("policy_name", "web"), ("outcome", "delayed")];
    assert!(
        shop.node
            .metrics()
            .sum("mesh_proxy_rate_limited_total", &labels)
            > 50.0
    );
}

#[test]
fn the_bandwidth_of_opaque_connections_is_limited() {
    let Some(shop) = Shop::open(1) else { return };
    shop.server().serve(ServerKind::Echo, 7_000);
    let target = json!({"kind": "Service", "name": "bulk"});
    let limit = json!({"bytes": 2_000_000, "burst": 100_000});
    let spec = json!({"target": target, "rateLimits": [limit]});
    shop.node.apply(&[
        service("bulk", &["240.240.0.30"], "tcp", 9_000, "tcp"),
        endpoint("bulk-1", "bulk", shop.server().v4(), "tcp", 7_000),
        object("TrafficPolicy", "bulk", &spec),
    ]);
    let address = "240.240.0.30:9000".parse().unwrap();
    let labels = [("policy_name", "bulk"), ("limit", "bytes")];
    let is_limited = || {
        shop.node
            .metrics()
            .has("mesh_proxy_rate_limited_total", &labels)
    };
    let echo = |bytes| mesh_tests::protocol::Task::Echo {
        address,
        bytes,
        chunk: 10_000,
    };
    assert_eventually!({
        shop.client.measure(echo(200_000)).unwrap();
        is_limited()
    });
    // There and back: four million bytes, two a second. A busy machine may take longer, once.
    let is_in_time = || {
        let begin = Instant::now();
        shop.client.measure(echo(2_000_000)).unwrap();
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(1_900), "{took:?}");
        took <= Duration::from_secs(4)
    };
    assert_eventually!(is_in_time(), Duration::from_secs(20));
}

#[test]
fn faults_hit_whom_they_are_for_and_are_visible() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_web();
    let other = shop.node.pod("other");
    shop.node.enrol(&other);
    let abort =
        json!({"sources": [{"workload": "other"}], "abort": {"status": 503, "percent": 50}});
    let delay =
        json!({"headers": [{"name": "x-slow", "value": "yes"}], "delay": {"fixed": "300ms"}});
    put(&shop, json!({"faults": [abort, delay]}));
    let labels = [("policy_name", "web"), ("kind", "abort")];
    let faults = || shop.node.metrics().sum("mesh_proxy_faults_total", &labels);
    let before = faults();
    let load = other.load(load(web(), 4, 0, 60_000));
    // So many that chance cannot tell.
    assert_eventually!(faults() > before + 300.0, Duration::from_secs(50));
    let report = load.stop();
    let share = report.failed * 100 / (report.failed + report.succeeded);
    assert!((35..=65).contains(&share), "{report:?}");
    assert_eq!(only_error(&report), "503 Service Unavailable fault");
    let begin = Instant::now();
    let answer = shop.client.request("GET", WEB, &[("x-slow", "yes")], "");
    assert_eq!(answer.unwrap().status, 200);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    let status = shop.node.api().get("/api/v1/status");
    assert_eq!(
        status["faults"],
        json!([{"policy": "shop/web", "target": "Service web", "count": 3}])
    );
    assert_eventually!({
        let log = shop.node.agent().log();
        let says = |text: &str| log.contains(text);
        says("faults are injected on purpose")
            && says("\"reason\":\"fault\"")
            && says("\"flags\":\"FI\"")
    });
}

#[test]
fn a_greedy_workload_takes_nothing_from_a_modest_one() {
    let Some(mut shop) = Shop::open(2) else {
        return;
    };
    shop.open_web();
    let greedy = shop.node.pod("greedy");
    shop.node.enrol(&greedy);
    // A request every 10 ms.
    let modest = load(web(), 1, 10_000, 4_000);
    let alone = shop.client.load(modest.clone()).wait();
    let flood = greedy.load(load(web(), 300, 0, 60_000));
    let mut churn = load(web(), 50, 0, 60_000);
    churn.keep_alive = false;
    let churn = greedy.load(churn);
    let queued = || {
        let metrics = shop.node.metrics();
        let labels = [("source_workload", "greedy")];
        metrics.sum("mesh_proxy_queued_total", &labels)
            + metrics.sum("mesh_proxy_shed_total", &labels)
    };
    let together = shop.client.load(modest).wait();
    let begin = Instant::now();
    let ready = shop.node.api().try_call("GET", "/readyz", &Value::Null);
    let status = shop.node.api().get("/api/v1/status");
    assert_eq!(
        (ready.unwrap().status, &status["ready"]),
        (200, &json!(true))
    );
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    assert_eventually!(queued() > 0.0);
    let (flood, churn) = (flood.stop(), churn.stop());
    eprintln!(
        "modest p99 alone {} us, beside {} us; modest {} of {}; greedy {} + {}",
        alone.p99_nanos / 1_000,
        together.p99_nanos / 1_000,
        together.succeeded,
        alone.succeeded,
        flood.succeeded,
        churn.succeeded,
    );
    assert_eq!(together.failed, 0, "{together:?}");
    // Everything is slower where all compete for two processors; who waits for places is much slower.
    assert!(together.succeeded * 4 >= alone.succeeded, "{together:?}");
    assert!(
        together.p50_nanos * 3 < flood.p50_nanos,
        "{together:?} {flood:?}"
    );
    assert!(
        flood.succeeded > together.succeeded,
        "it may use what is left"
    );
    let labels = [("source_workload", "client")];
    let metrics = shop.node.metrics();
    assert!(metrics.sum("mesh_proxy_shed_total", &labels) < 1.0);
    assert_eventually!(shop.node.agent().log().contains("\"flags\":\"-\""));
}

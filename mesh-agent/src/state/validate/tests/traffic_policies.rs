//! Traffic policies.

use super::*;

const KIND: Kind = Kind::TrafficPolicy;

fn on(kind: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["target"] = json!({"kind": kind, "name": "web"});
    spec
}

fn policy(spec: Value) -> Value {
    on("Service", spec)
}

/// Each of these specs is refused for its field.
fn all_refused(cases: impl IntoIterator<Item = (Value, &'static str)>) {
    for (spec, field) in cases {
        refused(KIND, policy(spec), field);
    }
}

#[test]
fn what_the_documents_show_is_accepted() {
    accepted(
        KIND,
        policy(json!({
            "loadBalancing": {"algorithm": "LeastRequest"},
            "healthCheck": {"http": {"path": "/healthz", "statuses": ["200-299"]}, "interval": "5s", "timeout": "1s",
                "healthyThreshold": 2, "unhealthyThreshold": 3},
            "outlierDetection": {"consecutive5xx": 3, "interval": "5s", "baseEjection": "30s", "maxEjectedPercent": 50},
            "circuitBreaker": {"maxConnections": 1024, "maxPending": 1024, "maxRequests": 1024, "maxRetries": 3,
                "failures": {"per": "Endpoint", "consecutive": 5, "openFor": "10s"}},
            "retries": {"attempts": 2, "on": ["5xx", "connect-failure", "reset", "refused-stream", "grpc:UNAVAILABLE"],
                "backoff": {"base": "25ms", "max": "250ms"}, "perTryTimeout": "1s",
                "budget": {"percent": 20, "minPerSecond": 10}},
            "hedging": {"after": "p95"},
            "rateLimits": [{"requests": 100, "per": "1s", "burst": 50, "by": ["sourceWorkload"]}],
        })),
    );
}

#[test]
fn target_is_a_service_or_a_route_or_one_rule_of_it() {
    let target = |kind: &str, section: Value| json!({"target": {"kind": kind, "name": "web", "sectionName": section}});
    accepted(KIND, target("Service", Value::Null));
    accepted(KIND, target("HTTPRoute", json!("first")));
    accepted(KIND, target("GRPCRoute", Value::Null));
    for wrong in ["TCPRoute", "TLSRoute", "Workload", "TrafficPolicy"] {
        refused(KIND, target(wrong, Value::Null), "spec.target.kind");
    }
    refused(
        KIND,
        target("Service", json!("http")),
        "spec.target.sectionName",
    );
    refused(
        KIND,
        target("HTTPRoute", json!("A")),
        "spec.target.sectionName",
    );
    refused(
        KIND,
        json!({"target": {"kind": "Service", "name": ""}}),
        "spec.target.name",
    );
}

#[test]
fn what_belongs_to_a_service_is_refused_on_a_route() {
    for (spec, field) in [
        (json!({"healthCheck": {"tcp": {}}}), "spec.healthCheck"),
        (
            json!({"outlierDetection": {"consecutive5xx": 1}}),
            "spec.outlierDetection",
        ),
        (
            json!({"adaptiveConcurrency": {}}),
            "spec.adaptiveConcurrency",
        ),
        (
            json!({"loadBalancing": {"algorithm": "Random"}}),
            "spec.loadBalancing.algorithm",
        ),
        (
            json!({"loadBalancing": {"locality": {}}}),
            "spec.loadBalancing.locality",
        ),
        (
            json!({"loadBalancing": {"panicThreshold": 1}}),
            "spec.loadBalancing.panicThreshold",
        ),
        (
            json!({"rateLimits": [{"bytes": 1}]}),
            "spec.rateLimits[0].bytes",
        ),
        (
            json!({"rateLimits": [{"connections": 1}]}),
            "spec.rateLimits[0].connections",
        ),
        (
            json!({"circuitBreaker": {"maxConnections": 1}}),
            "spec.circuitBreaker.maxConnections",
        ),
        (
            json!({"circuitBreaker": {"failures": {"per": "Service"}}}),
            "spec.circuitBreaker.failures.per",
        ),
    ] {
        refused(KIND, on("HTTPRoute", spec.clone()), field);
        accepted(KIND, policy(spec));
    }
    let per = |scope: &str| json!({"circuitBreaker": {"failures": {"per": scope}}});
    accepted(KIND, on("HTTPRoute", per("Route")));
    accepted(KIND, on("HTTPRoute", per("Endpoint")));
    let field = "spec.circuitBreaker.failures.per";
    refused(KIND, policy(per("Route")), field);
    accepted(
        KIND,
        on(
            "GRPCRoute",
            json!({
                "loadBalancing": {"subsets": [{"version": "2"}]}, "retries": {}, "timeouts": {"request": "1s"},
                "hedging": {"after": "10ms"}, "rateLimits": [{"requests": 1}], "priority": "Low",
                "faults": [{"abort": {"status": 503}}], "circuitBreaker": {"maxRequests": 1},
            }),
        ),
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn balancing_hashes_only_where_it_needs_to() {
    let with = |spec: Value| json!({ "loadBalancing": spec });
    let hash = |algorithm: &str, on: Value| with(json!({"algorithm": algorithm, "hashOn": on}));
    accepted(KIND, policy(hash("Maglev", json!({"header": "x-user"}))));
    accepted(KIND, policy(hash("RingHash", json!({"source": true}))));
    all_refused([
        (
            with(json!({"algorithm": "Maglev"})),
            "spec.loadBalancing.hashOn",
        ),
        (
            hash("Random", json!({"path": true})),
            "spec.loadBalancing.hashOn",
        ),
        (
            with(json!({"hashOn": {"path": true}})),
            "spec.loadBalancing.hashOn",
        ),
        (hash("Maglev", json!({})), "spec.loadBalancing.hashOn"),
        (
            hash("Maglev", json!({"header": "a", "query": "b"})),
            "spec.loadBalancing.hashOn.query",
        ),
        (
            hash("Maglev", json!({"header": "a b"})),
            "spec.loadBalancing.hashOn.header",
        ),
        (
            hash("Maglev", json!({"cookie": "a;"})),
            "spec.loadBalancing.hashOn.cookie",
        ),
        (
            hash("Maglev", json!({"source": false})),
            "spec.loadBalancing.hashOn.source",
        ),
        (
            with(json!({"slowStart": {"window": "0s"}})),
            "spec.loadBalancing.slowStart.window",
        ),
        (
            with(json!({"slowStart": {"window": "1s", "minWeightPercent": 0}})),
            "spec.loadBalancing.slowStart.minWeightPercent",
        ),
        (
            with(json!({"locality": {"prefer": []}})),
            "spec.loadBalancing.locality.prefer",
        ),
        (
            with(json!({"locality": {"prefer": ["Zone", "Node"]}})),
            "spec.loadBalancing.locality.prefer",
        ),
        (
            with(json!({"locality": {"minHealthyPercent": 0}})),
            "spec.loadBalancing.locality.minHealthyPercent",
        ),
        (
            with(json!({"failover": [{"service": "web"}]})),
            "spec.loadBalancing.failover[0].service",
        ),
        (
            with(json!({"failover": [{"service": "a"}, {"service": "a", "namespace": "shop"}]})),
            "spec.loadBalancing.failover[1]",
        ),
        (
            with(json!({"failover": [{"service": "a", "port": 0}]})),
            "spec.loadBalancing.failover[0].port",
        ),
        (
            with(json!({"subsets": [{"version": "1"}, {"weight": 3}]})),
            "spec.loadBalancing.subsets[1]",
        ),
        (
            with(json!({"subsets": [{"version": "1"}, {"version": "1", "weight": 3}]})),
            "spec.loadBalancing.subsets[1]",
        ),
        (
            with(json!({"subsets": [{"version": "1", "weight": 1001}]})),
            "spec.loadBalancing.subsets[0].weight",
        ),
        (
            with(json!({"subsets": [{"version": "1", "weight": 0}]})),
            "spec.loadBalancing.subsets",
        ),
        (
            with(json!({"subsets": [{"labels": {"a b": "c"}}]})),
            "spec.loadBalancing.subsets[0].labels.a b",
        ),
        (
            with(json!({"panicThreshold": 101})),
            "spec.loadBalancing.panicThreshold",
        ),
        (
            with(json!({"sessionPersistence": {"type": "Header", "cookieConfig": {}}})),
            "spec.loadBalancing.sessionPersistence.cookieConfig",
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn health_is_checked_in_one_way_and_within_reason() {
    let with = |spec: Value| json!({ "healthCheck": spec });
    let http = |spec: Value| with(json!({ "http": spec }));
    accepted(
        KIND,
        policy(http(
            json!({"path": "/a?b=c&d", "host": "a.b:80", "statuses": ["200", "300-399"]}),
        )),
    );
    accepted(
        KIND,
        policy(with(json!({"grpc": {"service": "a.B"}, "port": "grpc"}))),
    );
    let tcp = |name: &str, value: Value| {
        let mut spec = json!({ "tcp": {} });
        spec[name] = value;
        with(spec)
    };
    all_refused([
        (with(json!({})), "spec.healthCheck"),
        (with(json!({"http": {}, "tcp": {}})), "spec.healthCheck.tcp"),
        (http(json!({"path": "a"})), "spec.healthCheck.http.path"),
        (http(json!({"path": "/a b"})), "spec.healthCheck.http.path"),
        (http(json!({"host": "a b"})), "spec.healthCheck.http.host"),
        (http(json!({"host": "a:x"})), "spec.healthCheck.http.host"),
        (
            http(json!({"statuses": []})),
            "spec.healthCheck.http.statuses",
        ),
        (
            http(json!({"statuses": ["200", "299-200"]})),
            "spec.healthCheck.http.statuses[1]",
        ),
        (
            http(json!({"statuses": ["2xx"]})),
            "spec.healthCheck.http.statuses[0]",
        ),
        (
            http(json!({"statuses": ["99"]})),
            "spec.healthCheck.http.statuses[0]",
        ),
        (
            http(json!({"statuses": ["+20"]})),
            "spec.healthCheck.http.statuses[0]",
        ),
        (http(json!({"body": ""})), "spec.healthCheck.http.body"),
        (tcp("port", json!("A")), "spec.healthCheck.port"),
        (tcp("interval", json!("99ms")), "spec.healthCheck.interval"),
        (tcp("timeout", json!("6s")), "spec.healthCheck.timeout"),
        (tcp("timeout", json!("0s")), "spec.healthCheck.timeout"),
        (
            tcp("jitterPercent", json!(101)),
            "spec.healthCheck.jitterPercent",
        ),
        (
            tcp("healthyThreshold", json!(0)),
            "spec.healthCheck.healthyThreshold",
        ),
        (
            tcp("unhealthyThreshold", json!(0)),
            "spec.healthCheck.unhealthyThreshold",
        ),
    ]);
    let outliers = |name: &str, value: Value| {
        let mut spec = json!({ "consecutive5xx": 3 });
        spec[name] = value;
        json!({ "outlierDetection": spec })
    };
    accepted(KIND, policy(outliers("successRate", json!({}))));
    all_refused([
        (json!({"outlierDetection": {}}), "spec.outlierDetection"),
        (
            outliers("consecutive5xx", json!(0)),
            "spec.outlierDetection.consecutive5xx",
        ),
        (
            outliers("maxEjectedPercent", json!(101)),
            "spec.outlierDetection.maxEjectedPercent",
        ),
        (
            outliers("maxEjection", json!("1s")),
            "spec.outlierDetection.maxEjection",
        ),
        (
            outliers("interval", json!("1ms")),
            "spec.outlierDetection.interval",
        ),
        (
            outliers("successRate", json!({"minimumEndpoints": 1})),
            "spec.outlierDetection.successRate.minimumEndpoints",
        ),
        (
            outliers("failurePercentage", json!({"threshold": 0})),
            "spec.outlierDetection.failurePercentage.threshold",
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn resilience_has_known_words_and_bounded_numbers() {
    let retries = |name: &str, value: Value| {
        let mut spec = json!({});
        spec[name] = value;
        json!({ "retries": spec })
    };
    let words = [
        "5xx",
        "gateway-error",
        "retriable-4xx",
        "503",
        "timeout",
        "grpc:DATA_LOSS",
    ];
    accepted(KIND, policy(retries("on", json!(words))));
    all_refused([
        (retries("on", json!([])), "spec.retries.on"),
        (retries("on", json!(["5xx", "4xx"])), "spec.retries.on[1]"),
        (retries("on", json!(["grpc:OK"])), "spec.retries.on[0]"),
        (
            retries("on", json!(["grpc:unavailable"])),
            "spec.retries.on[0]",
        ),
        (retries("on", json!(["200"])), "spec.retries.on[0]"),
        (
            retries("on", json!(["reset", "reset"])),
            "spec.retries.on[1]",
        ),
        (retries("attempts", json!(11)), "spec.retries.attempts"),
        (
            retries("backoff", json!({"base": "1s"})),
            "spec.retries.backoff.max",
        ),
        (
            retries("backoff", json!({"base": "0s"})),
            "spec.retries.backoff.base",
        ),
        (
            retries("perTryTimeout", json!("0s")),
            "spec.retries.perTryTimeout",
        ),
        (
            retries("budget", json!({"percent": 101})),
            "spec.retries.budget.percent",
        ),
        (
            retries("budget", json!({"interval": "61s"})),
            "spec.retries.budget.interval",
        ),
        (
            retries("maxBodyBytes", json!(1_048_577)),
            "spec.retries.maxBodyBytes",
        ),
        (json!({"hedging": {"after": "p96"}}), "spec.hedging.after"),
        (json!({"hedging": {"after": "0s"}}), "spec.hedging.after"),
        (
            json!({"timeouts": {"request": "1s", "backendRequest": "2s"}}),
            "spec.timeouts.backendRequest",
        ),
        (
            json!({"circuitBreaker": {"maxConnections": 0}}),
            "spec.circuitBreaker.maxConnections",
        ),
        (
            json!({"circuitBreaker": {"maxRequests": 0}}),
            "spec.circuitBreaker.maxRequests",
        ),
        (
            json!({"circuitBreaker": {"failures": {"consecutive": 0}}}),
            "spec.circuitBreaker.failures.consecutive",
        ),
        (
            json!({"circuitBreaker": {"failures": {"openFor": "0s"}}}),
            "spec.circuitBreaker.failures.openFor",
        ),
        (
            json!({"circuitBreaker": {"failures": {"halfOpenRequests": 0}}}),
            "spec.circuitBreaker.failures.halfOpenRequests",
        ),
    ]);
    accepted(KIND, policy(json!({"hedging": {"after": "50ms"}})));
    let none = json!({"circuitBreaker": {"maxPending": 0, "maxRetries": 0}});
    accepted(KIND, policy(none));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn shaping_counts_one_thing_and_by_known_keys() {
    let limit = |spec: Value| json!({ "rateLimits": [spec] });
    let fault = |spec: Value| json!({ "faults": [spec] });
    accepted(
        KIND,
        policy(limit(
            json!({"requests": 1, "by": ["sourceIdentity", "header:x-user"]}),
        )),
    );
    accepted(
        KIND,
        policy(fault(
            json!({"delay": {"fixed": "1s", "percent": 0}, "sources": [{"workload": "a.b"}]}),
        )),
    );
    all_refused([
        (limit(json!({})), "spec.rateLimits[0]"),
        (
            limit(json!({"requests": 1, "bytes": 1})),
            "spec.rateLimits[0].bytes",
        ),
        (limit(json!({"requests": 0})), "spec.rateLimits[0].requests"),
        (
            limit(json!({"requests": 1, "burst": 0})),
            "spec.rateLimits[0].burst",
        ),
        (
            limit(json!({"requests": 1, "per": "25h"})),
            "spec.rateLimits[0].per",
        ),
        (
            limit(json!({"requests": 1, "maxDelay": "61s"})),
            "spec.rateLimits[0].maxDelay",
        ),
        (
            limit(json!({"requests": 1, "by": ["path"]})),
            "spec.rateLimits[0].by[0]",
        ),
        (
            limit(json!({"requests": 1, "by": ["header:"]})),
            "spec.rateLimits[0].by[0]",
        ),
        (
            limit(json!({"requests": 1, "by": ["header:a", "header:A"]})),
            "spec.rateLimits[0].by[1]",
        ),
        (
            limit(json!({"bytes": 1, "by": ["header:a"]})),
            "spec.rateLimits[0].by[0]",
        ),
        (
            json!({"adaptiveConcurrency": {"minRequests": 0}}),
            "spec.adaptiveConcurrency.minRequests",
        ),
        (
            json!({"adaptiveConcurrency": {"minRequests": 2, "maxRequests": 1}}),
            "spec.adaptiveConcurrency.minRequests",
        ),
        (
            json!({"adaptiveConcurrency": {"baselineInterval": "1ms"}}),
            "spec.adaptiveConcurrency.baselineInterval",
        ),
        (fault(json!({})), "spec.faults[0]"),
        (
            fault(json!({"delay": {"fixed": "61s"}})),
            "spec.faults[0].delay.fixed",
        ),
        (
            fault(json!({"delay": {"fixed": "1s", "percent": 101}})),
            "spec.faults[0].delay.percent",
        ),
        (fault(json!({"abort": {}})), "spec.faults[0].abort"),
        (
            fault(json!({"abort": {"status": 199}})),
            "spec.faults[0].abort.status",
        ),
        (
            fault(json!({"abort": {"grpc": "NO"}})),
            "spec.faults[0].abort.grpc",
        ),
        (
            fault(json!({"abort": {"status": 503}, "sources": [{}]})),
            "spec.faults[0].sources[0]",
        ),
        (
            fault(
                json!({"abort": {"status": 503}, "headers": [{"name": "a", "value": "(", "type": "RegularExpression"}]}),
            ),
            "spec.faults[0].headers[0].value",
        ),
    ]);
}

#[test]
fn default_that_does_not_suit_says_where_it_comes_from() {
    let reason = |spec: Value| match check(&read(KIND, "new", &policy(spec)), &store().snapshot()) {
        Err(Refusal::Invalid { message, .. }) => message,
        other => panic!("not refused: {other:?}"),
    };
    let unwritten = ", which holds where nothing is written";
    let long = json!({"consecutive5xx": 1, "baseEjection": "10m"});
    let told = reason(json!({"outlierDetection": long}));
    assert_eq!(told, format!("10m to 24h, not 5m{unwritten}"));
    for spec in [
        json!({"healthCheck": {"tcp": {}, "interval": "500ms"}}),
        json!({"retries": {"backoff": {"base": "1s"}}}),
        json!({"adaptiveConcurrency": {"maxRequests": 2}}),
    ] {
        let told = reason(spec);
        assert!(told.ends_with(unwritten), "{told}");
    }
    let written = json!({"consecutive5xx": 1, "baseEjection": "10m", "maxEjection": "6m"});
    let told = reason(json!({"outlierDetection": written}));
    assert_eq!(told, "10m to 24h, not 6m");
}

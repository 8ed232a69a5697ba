//! `explain` names what may refuse, delay or repeat a request.

use mesh_tests::assert_eventually;
use mesh_tests::registry::object;
use serde_json::{Value, json};

use crate::routing::{open, route, to};

#[test]
fn explain_says_what_limits_a_request() {
    let Some(shop) = open(1, &["a"]) else {
        return;
    };
    shop.node.apply(&limited());
    let explain = || {
        let path = "/api/v1/explain?source=shop/client&destination=240.240.0.10:80&path=/x";
        shop.node.api().get(path)["request"].take()
    };
    assert_eventually!(explain()["policies"] == json!(["shop/rule", "shop/web"]));
    let request = explain();
    let fields = |limits: &Value| -> Vec<(String, String)> {
        let text = |it: &Value| it.as_str().unwrap_or("-").to_owned();
        let limits = limits.as_array().unwrap().iter();
        limits
            .map(|it| (text(&it["field"]), text(&it["policy"])))
            .collect()
    };
    let said = |field: &str, policy: &str| (field.to_owned(), policy.to_owned());
    assert_eq!(
        fields(&request["limits"]),
        [
            said("rateLimits", "shop/web"),
            said("circuitBreaker", "shop/web"),
            said("faults", "shop/rule"),
            said("retry", "-"),
            said("priority", "shop/rule"),
        ]
    );
    assert_eq!(request["limits"][0]["says"]["requests"], 100);
    assert_eq!(request["limits"][1]["state"], "closed");
    assert_eq!(request["limits"][4]["says"], "High");
    let of_a = fields(&request["backends"][0]["limits"]);
    let expected = ["outlierDetection", "adaptiveConcurrency"];
    assert_eq!(of_a, expected.map(|field| said(field, "shop/a")));
    let words = ["explain", "shop/client", "240.240.0.10:80", "--path", "/x"];
    let shown = shop.node.command(&words).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("rateLimits") && shown.contains("\"requests\":100"),
        "{shown}"
    );
}

/// A route with a policy on its rule, and policies of both its services.
fn limited() -> Vec<Value> {
    let policy = |name: &str, spec: Value| object("TrafficPolicy", name, &spec);
    let limits = json!([{"requests": 100, "per": "1s", "by": ["sourceWorkload"]}]);
    let breaker = json!({"maxRequests": 10, "failures": {"per": "Service", "consecutive": 5}});
    vec![
        route(
            "HTTPRoute",
            "web",
            &json!([{"name": "all", "backendRefs": to("a"), "retry": {"attempts": 1}}]),
        ),
        policy(
            "web",
            json!({"target": {"kind": "Service", "name": "web"}, "rateLimits": limits,
                "retries": {"attempts": 3}, "priority": "Low", "circuitBreaker": breaker}),
        ),
        policy(
            "rule",
            json!({"target": {"kind": "HTTPRoute", "name": "r", "sectionName": "all"},
                "priority": "High", "faults": [{"delay": {"fixed": "1ms", "percent": 1}}]}),
        ),
        policy(
            "a",
            json!({"target": {"kind": "Service", "name": "a"},
                "adaptiveConcurrency": {}, "outlierDetection": {"consecutive5xx": 3}}),
        ),
    ]
}

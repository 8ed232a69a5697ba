//! Routes and traffic policies as objects: what is wrong is refused with its field, what dangles is marked and heals,
//! and the rest goes on.

use std::io::Write as _;
use std::process::Stdio;

use mesh_tests::node::Node;
use mesh_tests::registry::{object, service};
use serde_json::{Value, json};

use crate::shop::{Shop, WEB};

/// A route of the web service as `kubectl get -o json` prints it.
fn printed_by_kubectl(name: &str, backend: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n"},
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "generation": 3,
            "name": name,
            "namespace": "shop",
            "resourceVersion": "123456",
            "uid": "5b2a2a8e-6f43-4e0c-9a5e-0f0c2ad9c001"
        },
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{
                "backendRefs": [{"group": "", "kind": "Service", "name": backend, "port": 80, "weight": 1}],
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}]
            }]
        },
        "status": {"parents": []}
    })
}

/// The reason of a condition, with `!` before it where it does not hold.
fn reason(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|it| it["type"] == kind).unwrap();
    let mark = if found["status"] == "True" { "" } else { "!" };
    format!("{mark}{}", found["reason"].as_str().unwrap())
}

#[test]
fn bad_expression_and_unknown_field_are_refused_with_the_field_and_traffic_goes_on() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let api = shop.node.api();
    let mut bad = printed_by_kubectl("web", "web");
    bad["spec"]["rules"][0]["matches"] =
        json!([{"path": {"type": "RegularExpression", "value": "/a(b"}}]);
    let mut unknown = printed_by_kubectl("web", "web");
    unknown["spec"]["rules"][0]["timeout"] = json!("1s");
    let mut later = printed_by_kubectl("web", "web");
    later["spec"]["rules"][0]["filters"] = json!([{"type": "ExtensionRef"}]);
    let policy = |spec: Value| object("TrafficPolicy", "web", &spec);
    let target = json!({"kind": "Service", "name": "web"});
    for (bad, field) in [
        (bad, "spec.rules[0].matches[0].path.value"),
        (unknown, "spec.rules[0].timeout"),
        (later, "spec.rules[0].filters[0].type"),
        (
            policy(json!({"target": target, "retries": {"on": ["5xx", "4xx"]}})),
            "spec.retries.on[1]",
        ),
        (
            policy(json!({"target": target, "loadBalancing": {"algorithm": "Maglev"}})),
            "spec.loadBalancing.hashOn",
        ),
    ] {
        let answer = api.put(&bad);
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.json()["field"], field, "{}", answer.body);
    }
    assert_eq!(api.get("/api/v1/httproutes")["items"], json!([]));
    assert_eq!(shop.client.get(WEB).status, 200);
}

#[test]
fn what_kubectl_prints_is_taken_marked_while_it_dangles_and_heals() {
    let Some(node) = Node::start() else { return };
    let api = node.api();
    let route = printed_by_kubectl("web", "next");
    let path = "/api/v1/namespaces/shop/httproutes/web";
    assert_eq!(api.put(&route).status, 201);
    let kept = api.get(path);
    assert_ne!(kept["metadata"]["uid"], route["metadata"]["uid"]);
    assert_eq!(reason(&kept, "Accepted"), "!NoMatchingParent");
    assert_eq!(reason(&kept, "ResolvedRefs"), "!BackendNotFound");
    let policy = json!({"target": {"kind": "Service", "name": "web"}, "retries": {}});
    api.apply(&object("TrafficPolicy", "web", &policy));
    let of_policy = || api.get("/api/v1/namespaces/shop/trafficpolicies/web");
    assert_eq!(reason(&of_policy(), "Accepted"), "!TargetNotFound");

    api.apply(&service("web", &["240.240.0.10"], "http", 80, "http"));
    api.apply(&service("next", &["240.240.0.11"], "http", 80, "http"));

    assert_eq!(reason(&api.get(path), "Accepted"), "Accepted");
    assert_eq!(reason(&api.get(path), "ResolvedRefs"), "ResolvedRefs");
    assert_eq!(reason(&of_policy(), "Accepted"), "Accepted");
    // Printed again later, by the other registry and by this one.
    assert_eq!(api.put(&route).status, 200);
    assert_eq!(api.put(&api.get(path)).status, 200);
    for (words, expected) in [
        (["routes", "-n", "shop"], ["HTTPRoute", "next:80", "ok"]),
        (["policies", "-n", "shop"], ["Service/web", "retries", "ok"]),
    ] {
        let shown = node.command(&words).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(expected.iter().all(|it| shown.contains(it)), "{shown}");
    }
    let counted = api.get("/api/v1/status")["objects"].clone();
    assert_eq!(
        [&counted["httproutes"], &counted["trafficpolicies"]],
        [1, 1]
    );
}

#[test]
fn validate_judges_files_without_an_agent() {
    let Some(node) = Node::without_agent() else {
        return;
    };
    let judge = |text: &str, words: &[&str]| {
        let mut child = node
            .command(&["validate", "-"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said)
    };
    let good = printed_by_kubectl("web", "web").to_string();
    let (code, said) = judge(&good, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("-:1: HTTPRoute shop/web: ok, but "),
        "{said}"
    );

    let bad = good.replace("PathPrefix", "PathSuffix");
    let two = format!(
        "{bad}\n---\n{}\n",
        service("web", &["240.240.0.10"], "http", 80, "http")
    );
    let (code, said) = judge(&two, &[]);
    assert_eq!(code, Some(65), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let field = "spec.rules[0].matches[0].path.type";
    assert!(
        lines[0].starts_with(&format!("-:1: HTTPRoute shop/web: {field}: ")),
        "{said}"
    );
    assert_eq!(lines[1], "-:3: Service shop/web: ok");

    let (code, said) = judge(&two, &["-o", "json"]);
    assert_eq!(code, Some(65));
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["items"][0]["field"], field);
    assert_eq!(report["items"][1]["ok"], true);
}

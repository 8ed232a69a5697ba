//! Who needs whom, who really calls whom, and whether everything that is needed is up.

use mesh_tests::assert_eventually;
use mesh_tests::node::Node;
use mesh_tests::registry::{endpoint, service, with};
use serde_json::{Value, json};

use crate::shop::{WEB, cache};

/// The edge from one end to the other, each `KIND NAME`.
fn edge(graph: &Value, from: &str, to: &str) -> Value {
    let is = |end: &Value, wanted: &str| {
        let name = |field: &str| end[field].as_str().unwrap().to_owned();
        format!("{} {}", name("kind"), name("name")) == wanted
    };
    let mut edges = graph["edges"].as_array().unwrap().iter();
    let found = edges.find(|it| is(&it["source"], from) && is(&it["destination"], to));
    found.cloned().unwrap_or_default()
}

#[test]
fn declared_and_seen_edges_are_shown_and_undeclared_ones_are_counted() {
    let Some(node) = Node::start() else { return };
    let api = node.api();
    let [front, back] = ["front", "back"].map(|name| node.pod(name));
    node.enrol(&front);
    back.serve_http("web-1", 8_080);
    back.serve_echo(7_000);
    node.apply(&[
        // The caller serves something itself, so that it can be told what it calls.
        with(
            service("front", &["240.240.0.30"], "http", 80, "http"),
            &json!({"dependencies": [{"name": "web"}, {"name": "nowhere"}]}),
        ),
        endpoint("front-1", "front", front.v4(), "http", 8_080),
        service("web", &["240.240.0.10"], "http", 80, "http"),
        endpoint("web-1", "web", back.v4(), "http", 8_080),
        service("cache", &["240.240.0.20"], "tcp", 6_379, "tcp"),
        endpoint("cache-1", "cache", back.v4(), "tcp", 7_000),
    ]);

    assert_eq!(front.get(WEB).status, 200);
    let kept = front.connect(cache()).unwrap();
    kept.echo("hello").unwrap();
    let graph = || api.get("/api/v1/graph?namespace=shop");
    let to_cache = || edge(&graph(), "Service front", "Service cache");
    assert_eventually!(to_cache()["open"] == 1);
    kept.close();
    assert_eventually!(to_cache()["verdicts"]["direct"] == 1);
    assert_eq!(to_cache()["undeclared"], true);
    assert_eq!(to_cache()["declared"], false);
    let to_web = || edge(&graph(), "Service front", "Service web");
    assert_eventually!(to_web()["requests"] == 1);
    assert_eq!(to_web()["declared"], true);
    assert_eq!(to_web()["undeclared"], false);
    assert_eventually!(edge(&graph(), "Workload front", "Service web")["verdicts"]["proxy"] == 1);
    let labels = [
        ("source_service", "front"),
        ("destination_service", "cache"),
    ];
    let metrics = node.metrics();
    assert!(metrics.has("mesh_undeclared_edge_connections_total", &labels));
    assert!(metrics.text().contains("mesh_undeclared_edges 1\n"));
    let front_object = api.get("/api/v1/namespaces/shop/services/front");
    let conditions = front_object["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter();
    let mut resolved = conditions.filter(|it| it["type"] == "DependenciesResolved");
    assert_eq!(resolved.next().unwrap()["reason"], "DependencyNotFound");

    for (form, expected) in [
        ("table", ["undeclared", "missing"]),
        ("dot", ["digraph mesh", "color=red"]),
        ("json", ["\"undeclared\": true", "\"edges\""]),
    ] {
        let output = node.command(&["graph", "-o", form]).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(expected.iter().all(|it| shown.contains(it)), "{shown}");
    }
}

#[test]
fn readiness_names_what_is_not_up() {
    let Some(node) = Node::start() else { return };
    let api = node.api();
    let needs = |name: &str, needed: &str| {
        let it = service(name, &[], "http", 80, "http");
        with(it, &json!({"dependencies": [{ "name": needed }]}))
    };
    let server = node.pod("server");
    let db = endpoint("db-1", "db", server.v4(), "http", 8_080);
    let cache = endpoint("cache-1", "cache", server.v4(), "http", 8_080);
    node.apply(&[
        needs("web", "cache"),
        needs("cache", "db"),
        service("db", &[], "http", 80, "http"),
        cache,
    ]);
    let readiness = || {
        let path = "/api/v1/namespaces/shop/readiness?service=web";
        api.call("GET", path, &Value::Null)
    };

    let answer = readiness();
    assert_eq!(answer.status, 503, "{}", answer.body);
    let dependencies = answer.json()["dependencies"].clone();
    assert_eq!(dependencies[0]["ready"], true, "{}", answer.body);
    assert_eq!(dependencies[1]["name"], "db");
    assert_eq!(dependencies[1]["reason"], "NoEndpoint");

    node.apply(std::slice::from_ref(&db));
    assert_eq!(readiness().status, 200);
    node.apply(&[with(db, &json!({"maintenance": {"reason": "new disk"}}))]);
    assert_eq!(
        readiness().json()["dependencies"][1]["reason"],
        "NoPassingEndpoint"
    );
    let path = "/api/v1/namespaces/shop/readiness?service=no";
    assert_eq!(api.call("GET", path, &Value::Null).status, 404);
}

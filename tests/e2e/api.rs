//! The API: changes take effect, invalid ones do not, and every answer says why.

use http::Request;
use http_body_util::Full;
use mesh_tests::api::{ADDRESS, path_of};
use mesh_tests::assert_eventually;
use mesh_tests::node::Node;
use mesh_tests::registry::{endpoint, object, service};
use serde_json::{Value, json};

use crate::shop::{Shop, WEB};

#[test]
fn objects_are_made_changed_listed_and_deleted() {
    let Some(node) = Node::start() else { return };
    let api = node.api();
    let mut web = service("web", &["240.240.0.10"], "http", 80, "http");
    assert_eq!(api.put(&web).status, 201);
    web["spec"]["balancing"] = json!("RoundRobin");
    assert_eq!(api.put(&web).status, 200);
    let kept = api.get(&path_of(&web));
    assert_eq!(kept["apiVersion"], "mesh.dev/v1alpha1");
    assert_eq!(kept["metadata"]["generation"], 2);
    assert_eq!(kept["status"]["addresses"], json!(["240.240.0.10"]));
    let list = api.get("/api/v1/namespaces/shop/services");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    assert!(list["metadata"]["resourceVersion"].is_string());
    api.delete(&web);
    assert_eq!(api.call("GET", &path_of(&web), &Value::Null).status, 404);
}

#[test]
fn a_stale_version_is_a_conflict() {
    let Some(node) = Node::start() else { return };
    let api = node.api();
    let mut web = service("web", &["240.240.0.10"], "http", 80, "http");
    api.apply(&web);
    let old = api.get(&path_of(&web))["metadata"]["resourceVersion"].clone();
    web["spec"]["balancing"] = json!("Random");
    api.apply(&web);
    web["metadata"]["resourceVersion"] = old;
    web["spec"]["balancing"] = json!("RoundRobin");
    let answer = api.put(&web);
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert_eq!(api.get(&path_of(&web))["spec"]["balancing"], "Random");
}

#[test]
fn a_bad_object_is_refused_with_its_field_and_nothing_changes() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let api = shop.node.api();
    let good = |field: &str, value: Value| {
        let mut web = service("web", &["240.240.0.10"], "http", 80, "http");
        *web.pointer_mut(field).unwrap() = value;
        web
    };
    for (bad, field) in [
        (good("/spec/ports/0/port", json!(0)), "port"),
        (good("/spec/ports/0/protocol", json!("morse")), "protocol"),
        (good("/spec/addresses/0", json!("127.0.0.1")), "addresses"),
        (
            endpoint("x", "web", "127.0.0.1".parse().unwrap(), "http", 1),
            "address",
        ),
        (
            object("Workload", "x", &json!({ "netns": "relative" })),
            "netns",
        ),
        (
            object("Service", "x", &json!({ "ports": [], "colour": "red" })),
            "colour",
        ),
    ] {
        let answer = api.put(&bad);
        assert!(
            matches!(answer.status, 400 | 422),
            "{}: {}",
            answer.status,
            answer.body
        );
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.json();
        assert!(
            problem["field"]
                .as_str()
                .is_some_and(|at| at.contains(field)),
            "{problem}"
        );
    }
    assert_eq!(shop.client.get(WEB).status, 200);
}

#[test]
fn what_is_not_there_yet_is_refused_as_not_supported() {
    let Some(node) = Node::start() else { return };
    let spec = json!({
        "target": { "kind": "Service", "name": "web" },
        "action": "Allow",
        "rules": [{ "to": [{ "methods": ["GET"] }] }],
    });
    let answer = node.api().put(&object("AuthorizationPolicy", "l7", &spec));
    assert_eq!(answer.status, 422, "{}", answer.body);
    assert_eq!(answer.json()["reason"], "NotSupported");
}

#[test]
fn a_watch_tells_every_change_in_order() {
    let Some(node) = Node::start() else { return };
    let api = node.api();
    let mut web = service("web", &["240.240.0.10"], "http", 80, "http");
    api.apply(&web);
    let mut watch = api.watch("/api/v1/namespaces/shop/services");
    let mut expect = |kind: &str, balancing: &str| {
        // Changes of the status may come between.
        loop {
            let event = watch.next_event();
            assert_eq!(event["object"]["metadata"]["name"], "web");
            if event["type"] == kind && event["object"]["spec"]["balancing"] == balancing {
                break;
            }
            assert_ne!(event["type"], "DELETED", "{event}");
        }
    };
    expect("ADDED", "LeastRequest");
    web["spec"]["balancing"] = json!("Random");
    api.apply(&web);
    expect("MODIFIED", "Random");
    api.delete(&web);
    expect("DELETED", "Random");
}

#[test]
fn addresses_are_allotted_and_shown() {
    let Some(shop) = Shop::open(1) else { return };
    shop.server().serve_http("free", 8_081);
    let mut free = service("free", &[], "http", 80, "http");
    free["spec"]["addresses"] = json!([]);
    shop.node.apply(&[
        free.clone(),
        endpoint("free-1", "free", shop.server().v4(), "http", 8_081),
    ]);
    let addresses = shop.node.api().get(&path_of(&free))["status"]["addresses"].clone();
    let address = addresses[0].as_str().unwrap();
    assert!(address.starts_with("240.240."), "{addresses}");
    assert_eq!(
        shop.client
            .get(&format!("http://{address}/"))
            .header("x-server"),
        "free"
    );
}

#[test]
fn a_deleted_service_is_gone_from_the_kernel() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let used = |name: &str| {
        shop.node
            .metrics()
            .sum("mesh_map_entries", &[("map", name)])
    };
    assert_eventually!(used("services") + used("SERVICES") > 0.5);
    shop.node
        .delete(&service("cache", &[], "tcp", 6_379, "tcp"));
    assert!(shop.client.connect(crate::shop::cache()).is_err());
    assert_eventually!(used("services") + used("SERVICES") < 0.5);
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let Some(node) = Node::start() else { return };
    let api = node.api();
    for (host, origin, status) in [
        ("127.0.0.1:15000", None, 200),
        ("evil.example", None, 403),
        ("127.0.0.1:15000", Some("http://evil.example"), 403),
    ] {
        let mut request = Request::get("/api/v1/status").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let request = request.body(Full::default()).unwrap();
        let answer = api.send(ADDRESS, request).unwrap();
        assert_eq!(answer.status, status, "{host} {origin:?}: {}", answer.body);
    }
}

#[test]
fn documents_and_status_are_served() {
    let Some(node) = Node::start() else { return };
    let api = node.api();
    assert_eq!(
        api.get("/openapi.json")["openapi"]
            .as_str()
            .map(|v| &v[..3]),
        Some("3.1")
    );
    let docs = api.call("GET", "/docs", &Value::Null);
    assert!(
        matches!(docs.status, 200 | 303 | 307 | 308),
        "{}",
        docs.status
    );
    assert_eq!(api.get("/api/v1/status")["ready"], true);
    assert!(api.get("/api/v1/config_dump").is_object());
    let level = api.call("PUT", "/api/v1/log-level", &json!({ "level": "debug" }));
    assert!(matches!(level.status, 200 | 204), "{}", level.body);
    assert_eq!(api.call("GET", "/healthz", &Value::Null).status, 200);
    assert!(
        api.call("GET", "/metrics", &Value::Null)
            .body
            .contains("mesh_build_info")
    );
    assert_eq!(api.call("GET", "/nowhere", &Value::Null).status, 404);
}

#[test]
fn connections_are_shown_while_they_live() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let conn = shop.client.connect(crate::shop::cache()).unwrap();
    conn.echo("hello").unwrap();
    assert_eventually!({
        let list = shop.node.api().get("/api/v1/connections");
        let items = list["items"].as_array().unwrap();
        items.iter().any(|item| {
            item["service"] == "shop/cache"
                && item["verdict"] == "direct"
                && item["bytesSent"] == 5
                && item["bytesReceived"] == 5
        })
    });
}

#[test]
fn questions_are_answered_on_a_thread_of_their_own() {
    let Some(node) = Node::start() else { return };
    let busy = || {
        let labels = [("runtime", "api")];
        let metrics = node.metrics();
        metrics.sum("tokio_worker_busy_seconds_total", &labels)
    };
    // A scrape is a question too.
    let before = busy();
    assert_eventually!(busy() > before);
}

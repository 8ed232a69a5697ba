//! What two servers could read in two ways does not get through a real agent.

use mesh_tests::assert_eventually;
use mesh_tests::pod::Pod;
use mesh_tests::registry::object;
use serde_json::{Value, json};

use crate::shop::{Shop, WEB, web};

/// Sends raw bytes, and reads until the proxy closes.
fn raw(client: &Pod, request: &str) -> String {
    let conn = client.connect(web()).unwrap();
    conn.send(request).unwrap();
    conn.receive(65_536).unwrap()
}

#[test]
fn hostile_requests_are_refused_counted_and_logged() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_web();
    // Paths that servers read in two ways are refused where a rule tells paths apart.
    let parent = json!({"group": "", "kind": "Service", "name": "web"});
    let backend = json!([{"name": "web", "port": 80}]);
    let rules = json!([{"backendRefs": backend}, {"matches": [{"path": {"value": "/admin"}}]}]);
    let spec = json!({"parentRefs": [parent], "rules": rules});
    let mut route = object("HTTPRoute", "web", &spec);
    route["apiVersion"] = json!("gateway.networking.k8s.io/v1");
    shop.node.apply(&[route]);
    assert_eventually!(shop.client.get(&format!("{WEB}admin")).status == 500);
    let requests = [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a,b\r\n\r\n",
        "GET /admin%2fsecret HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /x/..;/admin HTTP/1.1\r\nhost: a\r\n\r\n",
        "CONNECT a HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    for request in requests {
        let answer = raw(&shop.client, request);
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("x-mesh-error: bad-request"),
            "{request:?} gave {answer}"
        );
    }
    let labels = [("reason", "bad-request")];
    let count = || shop.node.metrics().sum("mesh_proxy_errors_total", &labels);
    assert_eventually!(count() >= 8.0);
    let agent = shop.node.agent();
    assert_eventually!(agent.log().matches(r#""reason":"bad-request""#).count() == 8);
}

#[test]
fn the_server_gets_the_path_and_the_host_in_one_spelling() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    for (path, expected) in [
        ("/a/b?c=//../%2f", "/a/b?c=//../%2f"),
        ("//x/%2e%2e/./%61\\b", "/a/b"),
        ("http://WEB.:80/a//b", "/a/b"),
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: Web.\r\nconnection: close\r\nx-real-ip: 6.6.6.6\r\nx_real_ip: 6.6.6.6\r\n\r\n"
        );
        let answer = raw(&shop.client, &request);
        // Between the sizes of chunks.
        let body = &answer[answer.find('{').unwrap()..=answer.rfind('}').unwrap()];
        let seen: Value = serde_json::from_str(body).unwrap();
        assert_eq!(seen["uri"], expected, "{path}");
        let fields = seen["headers"].to_string();
        let host = if path.starts_with("http:") {
            r#"["host","web:80"]"#
        } else {
            r#"["host","web"]"#
        };
        assert!(fields.contains(host), "{fields}");
        assert!(!fields.contains("6.6.6.6"), "{fields}");
    }
}

//! Clients of Consul: what they register is reached through the mesh, watched over, and still there after a crash.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use mesh_tests::assert_eventually;
use mesh_tests::clients::{self, Language, Running};
use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use serde_json::{Value, json};

/// Where a workload with access reaches the registry.
const REGISTRY: &str = "http://127.0.0.1:15000";

/// A `PUT` to the agent's API, which must be accepted.
#[track_caller]
fn accept(node: &Node, path: &str, body: &Value) {
    let answer = node.api().call("PUT", path, body);
    assert_eq!(answer.status, 200, "PUT {path}: {}", answer.body);
}

#[track_caller]
fn register(node: &Node, id: &str, address: IpAddr, check: &Value) {
    let body = json!({"Name": "shop", "ID": id, "Address": address, "Port": 8080, "Check": check});
    accept(node, "/v1/agent/service/register", &body);
}

/// What is dialled to reach a service: the virtual address, at the port that was registered.
#[track_caller]
fn url(node: &Node, service: &str) -> String {
    let found = node.api().get(&format!("/v1/catalog/service/{service}"));
    let found = &found[0]["ServiceTaggedAddresses"]["virtual"];
    format!(
        "http://{}:{}/",
        found["Address"].as_str().unwrap(),
        found["Port"]
    )
}

/// Ids of the instances that are well.
#[track_caller]
fn passing(node: &Node, service: &str) -> Vec<String> {
    let found = node
        .api()
        .get(&format!("/v1/health/service/{service}?passing"));
    let ids = found.as_array().unwrap().iter();
    ids.map(|it| it["Service"]["ID"].as_str().unwrap().to_owned())
        .collect()
}

/// Who answers, of twelve requests.
#[track_caller]
fn answering(client: &Pod, url: &str) -> Vec<String> {
    let mut names: Vec<String> = (0..12)
        .map(|_| client.get(url).header("x-server").to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn registered_instances_are_reached_watched_and_still_there_after_a_crash() {
    let Some(mut node) = Node::start() else {
        return;
    };
    let client = node.pod("client");
    let servers = [node.pod("one"), node.pod("two")];
    node.enrol(&client);
    let ttl = json!({"TTL": "60s"});
    for (pod, id) in servers.iter().zip(["shop-1", "shop-2"]) {
        pod.serve_http(id, 8_080);
        register(&node, id, pod.v4(), &ttl);
        accept(
            &node,
            &format!("/v1/agent/check/pass/service:{id}"),
            &Value::Null,
        );
    }
    node.settle();
    let url = url(&node, "shop");
    assert_eventually!(answering(&client, &url) == ["shop-1", "shop-2"]);
    assert_eventually!(node.agent().log().contains("\"default/shop\""));

    accept(
        &node,
        "/v1/agent/check/fail/service:shop-1?note=ill",
        &Value::Null,
    );
    assert_eventually!(answering(&client, &url) == ["shop-2"]);
    accept(
        &node,
        "/v1/agent/service/maintenance/shop-2?enable=true",
        &Value::Null,
    );
    assert_eventually!(passing(&node, "shop").is_empty());
    accept(
        &node,
        "/v1/agent/service/maintenance/shop-2?enable=false",
        &Value::Null,
    );

    node.restart_agent();
    assert_eq!(passing(&node, "shop"), ["shop-2"], "nothing is forgotten");
    assert_eventually!(answering(&client, &url) == ["shop-2"]);
    accept(&node, "/v1/agent/check/pass/service:shop-1", &Value::Null);
    assert_eventually!(answering(&client, &url) == ["shop-1", "shop-2"]);
    for id in ["shop-1", "shop-2"] {
        accept(
            &node,
            &format!("/v1/agent/service/deregister/{id}"),
            &Value::Null,
        );
    }
    assert_eq!(node.api().get("/v1/catalog/services"), json!({}));
}

#[test]
fn checks_are_made_from_where_the_instance_is_and_the_lost_are_deregistered() {
    let Some(node) = Node::start() else { return };
    let server = node.pod("server");
    node.enrol(&server);
    server.serve_http("shop-1", 8_080);
    // In the pod's own namespace this is the pod.
    let http = json!({"HTTP": "http://localhost:8080/health", "Interval": "200ms", "Timeout": "5s",
        "DeregisterCriticalServiceAfter": "1s"});
    register(&node, "shop-1", server.v4(), &http);
    assert_eventually!(passing(&node, "shop") == ["shop-1"]);
    let checks = node.api().get("/v1/health/checks/shop");
    assert_eq!(checks[0]["Type"], "http");
    let output = checks[0]["Output"].as_str().unwrap();
    assert!(output.starts_with("GET /health: 200 OK"), "{output}");
    server.kill();
    assert_eventually!(node.api().get("/v1/catalog/services") == json!({}));
    let count = |name, labels: &[_]| node.metrics().sum(name, labels);
    let made = [("kind", "http"), ("status", "passing")];
    assert!(count("mesh_registered_checks_total", &made) >= 1.0);
    let lost = [("reason", "critical")];
    assert_eventually!(count("mesh_endpoints_deregistered_total", &lost) >= 1.0);
}

/// Makes a certificate for `shop.test` in a folder, and its key.
#[track_caller]
fn certify(folder: &Path) {
    let words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=shop -addext subjectAltName=DNS:shop.test \
                 -addext basicConstraints=CA:FALSE -keyout key.pem -out shop.pem";
    let mut openssl = Command::new("openssl");
    openssl.args(words.split_whitespace()).current_dir(folder);
    let made = openssl.output().unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}

#[test]
fn a_check_over_tls_believes_whom_the_agent_was_told_to() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let authority = folder.path().join("shop.pem");
    let flags = ["--check-ca", authority.to_str().unwrap()];
    let Some(node) = Node::start_with(&flags) else {
        return;
    };
    let server = node.pod("server");
    node.enrol(&server);
    let mut openssl = Command::new("openssl");
    openssl
        .args("s_server -accept 8443 -cert shop.pem -key key.pem -www -quiet".split(' '))
        .current_dir(folder.path());
    let mut serving = server.spawn(&mut openssl).unwrap();
    let check = |more: Value| {
        let mut check =
            json!({"HTTP": "https://localhost:8443/", "Interval": "200ms", "Timeout": "1s"});
        check
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        register(&node, "shop-1", server.v4(), &check);
    };
    check(json!({"TLSServerName": "shop.test"}));
    assert_eventually!(passing(&node, "shop") == ["shop-1"]);
    check(json!({}));
    assert_eventually!(passing(&node, "shop").is_empty());
    let output = || node.api().get("/v1/health/checks/shop")[0]["Output"].to_string();
    assert_eventually!(output().contains("no TLS: invalid peer certificate"));
    check(json!({"TLSSkipVerify": true}));
    assert_eventually!(passing(&node, "shop") == ["shop-1"]);
    serving.kill().unwrap();
    serving.wait().unwrap();
    assert_eventually!(passing(&node, "shop").is_empty());
}

#[test]
fn a_workload_with_access_speaks_for_itself_only() {
    let Some(node) = Node::start() else { return };
    let pod = node.pod("pod");
    let other = node.pod("other");
    node.enrol_with(&pod, &json!({"registryAccess": true}));
    node.enrol(&other);
    let ask = |method: &str, path: &str, body: &Value| {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let url = format!("{REGISTRY}{path}");
        pod.request(method, &url, &[], &text).unwrap()
    };
    assert_eventually!({
        let url = format!("{REGISTRY}/v1/agent/self");
        pod.request("GET", &url, &[], "").is_ok()
    });
    let register = "/v1/agent/service/register";
    let own = json!({"Name": "own", "Port": 8080});
    assert_eq!(ask("PUT", register, &own).status, 200);
    let found = node.api().get("/v1/catalog/service/own?ns=shop");
    assert_eq!(found[0]["ServiceAddress"], pod.v4().to_string());
    let kept = node.api().get("/api/v1/namespaces/shop/endpoints/own");
    let marks = &kept["metadata"]["annotations"];
    assert_eq!(marks["mesh.dev/of-workload"], "true", "{kept}");
    let foreign = json!({"Name": "own", "ID": "x", "Port": 8080, "Address": other.v4()});
    assert_eq!(ask("PUT", register, &foreign).status, 403);
    let address = format!("{}:8080", other.v4());
    let asking = json!({"Name": "own", "Port": 8080, "Check": {"TCP": address, "Interval": "1s"}});
    assert_eq!(ask("PUT", register, &asking).status, 400);
    let node_check = json!({"Name": "consul", "ID": "node:x", "Check": {"TTL": "1h"}});
    let holder = json!({"Name": "kv", "ID": "kv-me"});
    let elsewhere = json!({"Node": "far", "Address": pod.v4(), "Service": {"Service": "own"}});
    for (method, path, body) in [
        ("PUT", "/v1/agent/service/register?ns=default", own),
        ("GET", "/v1/catalog/services?ns=default", Value::Null),
        ("GET", "/api/v1/services", Value::Null),
        ("GET", "/v1/agent/metrics", Value::Null),
        ("PUT", register, node_check),
        ("PUT", register, holder),
        ("PUT", "/v1/catalog/register", elsewhere),
        ("PUT", "/v1/kv/any", json!("b")),
    ] {
        assert_eq!(ask(method, path, &body).status, 403, "{path} {body}");
    }
    let theirs = json!({"Name": "theirs", "Address": other.v4(), "Port": 80});
    accept(&node, "/v1/agent/service/register?ns=shop", &theirs);
    assert_eq!(
        ask("GET", "/v1/catalog/service/theirs", &Value::Null).json()[0]["ServicePort"],
        80
    );
    assert_eq!(
        ask("PUT", "/v1/agent/service/deregister/theirs", &Value::Null).status,
        403
    );
    assert_eq!(ask("PUT", "/v1/kv/shop/theirs/a", &json!("b")).status, 403);
    assert_eq!(ask("PUT", "/v1/kv/shop/own/a", &json!("b")).status, 200);
    let refused = other.request("GET", &format!("{REGISTRY}/v1/agent/self"), &[], "");
    assert!(refused.is_err(), "nobody listens where no access was given");
}

#[test]
fn access_is_not_interrupted_when_the_addresses_of_a_workload_change() {
    let Some(node) = Node::start() else { return };
    let pod = node.pod("pod");
    node.enrol_with(&pod, &json!({"registryAccess": true}));
    let url = format!("{REGISTRY}/v1/agent/self");
    let ask = || pod.request("GET", &url, &[], "");
    assert_eventually!(ask().is_ok());
    for number in 1..20 {
        let addresses = json!([pod.v4(), pod.v6(), format!("198.51.100.{number}")]);
        node.enrol_with(
            &pod,
            &json!({"registryAccess": true, "addresses": addresses}),
        );
        // One that is just accepted when its scope changes may be closed, but somebody listens all the time.
        for _ in 0..10 {
            let is_refused = ask().is_err_and(|it| it.kind == "ConnectionRefused");
            assert!(!is_refused, "{number}");
        }
        assert_eventually!(ask().is_ok_and(|it| it.status == 200));
    }
}

#[test]
fn clients_in_three_languages_register_find_and_call_each_other() {
    let Some(mut node) = Node::start() else {
        return;
    };
    if !clients::met() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pods = Language::ALL.map(|language| node.pod(language.service()));
    let has_registry = |pod: &Pod| {
        let leader = format!("{REGISTRY}/v1/status/leader");
        pod.request("GET", &leader, &[], "").is_ok()
    };
    for pod in &pods {
        node.enrol_with(pod, &json!({"registryAccess": true}));
        assert_eventually!(has_registry(pod));
    }
    // Each calls the next one.
    let peers = [Language::Node, Language::Java, Language::Python];
    let running: Vec<Running> = (0..3)
        .map(|index| {
            let peer = peers[index].service();
            Running::start(
                Language::ALL[index],
                &pods[index],
                8_080,
                peer,
                folder.path(),
            )
        })
        .collect();
    let answered = |after: &[usize]| {
        for (index, client) in running.iter().enumerate() {
            let words = format!("answer: this is {}", peers[index].service());
            client.wait_for(&words, after[index]);
        }
    };
    answered(&[0, 0, 0]);
    let so_far: Vec<usize> = running.iter().map(|it| it.said().len()).collect();
    node.restart_agent();
    answered(&so_far);
    for language in Language::ALL {
        let path = format!("/v1/health/service/{}?passing&ns=shop", language.service());
        assert_eventually!(node.api().get(&path).as_array().unwrap().len() == 1);
    }
    for pod in &pods {
        assert_eventually!(has_registry(pod));
    }
    for client in running {
        let said = client.stop();
        assert!(said.contains("deregistered"), "{said}");
    }
    assert_eq!(node.api().get("/v1/catalog/services?ns=shop"), json!({}));
}

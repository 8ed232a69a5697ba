//! What clients of Consul ask, and what they are answered.

use super::*;
use crate::state::life::View;

impl Fixture {
    pub(super) async fn raw(&self, method: &str, path: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::from(body.to_owned()));
        self.send(request.unwrap()).await
    }

    /// A `PUT` that is accepted.
    pub(super) async fn accept(&self, path: &str, body: &Value) {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = self.raw("PUT", path, &text).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }

    pub(super) async fn refuse(&self, path: &str, body: &Value, status: u16, part: &str) {
        let answer = self.raw("PUT", path, &body.to_string()).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert!(answer.text.contains(part), "{}", answer.text);
    }

    /// The JSON of a `GET`.
    pub(super) async fn seen(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    }

    pub(super) async fn shop(&self, id: &str, fields: &Value) {
        let mut body = json!({"ID": id, "Name": "shop", "Address": "10.0.0.3", "Port": 8080});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        self.accept("/v1/agent/service/register", &body).await;
    }
}

fn index(answer: &Answer) -> u64 {
    let index = answer.headers["x-consul-index"].to_str().unwrap();
    index.parse().unwrap()
}

#[tokio::test]
async fn what_is_registered_is_found_in_every_view() {
    let fixture = Fixture::new().await;
    let check = json!({"TTL": "10s"});
    let fields = json!({"Tags": ["blue"], "Meta": {"version": "2"}, "Check": check});
    fixture.shop("shop-1", &fields).await;
    let services = fixture.seen("/v1/agent/services").await;
    assert_eq!(services["shop-1"]["Service"], "shop");
    assert_eq!(services["shop-1"]["Port"], 8080);
    assert_eq!(services["shop-1"]["Meta"], json!({"version": "2"}));
    let one = fixture.seen("/v1/agent/service/shop-1").await;
    assert_eq!(one, services["shop-1"]);
    assert_eq!(
        fixture.seen("/v1/catalog/services").await,
        json!({"shop": ["blue"]})
    );
    let found = fixture.seen("/v1/catalog/service/shop?tag=blue").await;
    assert_eq!(found[0]["ServiceID"], "shop-1");
    assert_eq!(found[0]["ServiceAddress"], "10.0.0.3");
    assert_eq!(found[0]["Node"], "here");
    assert_eq!(
        fixture.seen("/v1/catalog/service/shop?tag=green").await,
        json!([])
    );
    let health = fixture.seen("/v1/health/service/shop").await;
    assert_eq!(health[0]["Checks"][0]["CheckID"], "serfHealth");
    assert_eq!(health[0]["Checks"][1]["CheckID"], "service:shop-1");
    assert_eq!(health[0]["Checks"][1]["Status"], "critical");
    assert_eq!(
        fixture.seen("/v1/health/service/shop?passing").await,
        json!([])
    );
    fixture
        .accept(
            "/v1/agent/check/pass/service:shop-1?note=fine",
            &Value::Null,
        )
        .await;
    let passing = fixture.seen("/v1/health/service/shop?passing=1").await;
    assert_eq!(passing[0]["Checks"][1]["Output"], "fine");
    let filter = "/v1/health/service/shop?filter=Service.Meta.version%20==%20%222%22";
    assert_eq!(fixture.seen(filter).await.as_array().unwrap().len(), 1);
    let nodes = fixture.seen("/v1/catalog/nodes").await;
    assert_eq!(
        (&nodes[0]["Node"], &nodes[0]["Address"]),
        (&json!("here"), &json!("10.0.0.9"))
    );
    let node = fixture.seen("/v1/catalog/node/here").await;
    assert_eq!(node["Services"]["shop-1"]["ID"], "shop-1");
    assert_eq!(fixture.seen("/v1/catalog/node/there").await, Value::Null);
    let checks = fixture.seen("/v1/health/checks/shop").await;
    assert_eq!(checks[0]["Name"], "Service 'shop' check");
    let any = fixture.seen("/v1/health/state/any").await;
    assert_eq!(any.as_array().unwrap().len(), 2);
    assert_eq!(fixture.seen("/v1/agent/members").await[0]["Name"], "here");
    assert_eq!(
        fixture.seen("/v1/agent/self").await["Config"]["NodeName"],
        "here"
    );
    fixture.stop().await;
}

#[tokio::test]
async fn the_service_of_instances_has_their_ports_and_goes_with_them() {
    let fixture = Fixture::new().await;
    fixture.shop("shop-1", &json!({})).await;
    fixture.shop("shop-2", &json!({"Port": 9090})).await;
    let ports = |fixture: &Fixture| {
        let snapshot = fixture.store.snapshot();
        let service = snapshot.services.get(&ObjectKey::new("default", "shop"))?;
        Some(
            service
                .spec
                .ports
                .iter()
                .map(|it| it.port)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(ports(&fixture), Some(vec![8080, 9090]));
    fixture
        .accept("/v1/agent/service/deregister/shop-2", &Value::Null)
        .await;
    assert_eq!(ports(&fixture), Some(vec![8080]));
    fixture
        .accept("/v1/agent/service/deregister/shop-1", &Value::Null)
        .await;
    assert_eq!(ports(&fixture), None);
    fixture
        .refuse(
            "/v1/agent/service/deregister/shop-1",
            &Value::Null,
            404,
            "Unknown service ID",
        )
        .await;
    let odd = json!({"Name": "Odd_Name", "ID": "Odd/1", "Port": 80, "Address": "10.0.0.4"});
    fixture.accept("/v1/agent/service/register", &odd).await;
    let services = fixture.seen("/v1/agent/services").await;
    assert_eq!(services["Odd/1"]["Service"], "Odd_Name");
    assert_eq!(
        fixture.seen("/v1/catalog/service/Odd_Name").await[0]["ServiceID"],
        "Odd/1"
    );
    fixture
        .accept("/v1/agent/service/deregister/Odd/1", &Value::Null)
        .await;
    assert_eq!(fixture.seen("/v1/agent/services").await, json!({}));
    fixture.stop().await;
}

#[tokio::test]
async fn checks_come_one_by_one_and_speak() {
    let fixture = Fixture::new().await;
    fixture.shop("shop-1", &json!({})).await;
    let check = json!({"ID": "alive", "Name": "Alive", "ServiceID": "shop-1", "TTL": "10s"});
    fixture.accept("/v1/agent/check/register", &check).await;
    fixture
        .accept("/v1/agent/check/warn/alive?note=slow", &Value::Null)
        .await;
    let checks = fixture.seen("/v1/agent/checks").await;
    assert_eq!(
        (&checks["alive"]["Status"], &checks["alive"]["Output"]),
        (&json!("warning"), &json!("slow"))
    );
    let update = json!({"Status": "passing", "Output": "fast"});
    fixture
        .accept("/v1/agent/check/update/alive", &update)
        .await;
    assert_eq!(
        fixture.seen("/v1/agent/checks").await["alive"]["Output"],
        "fast"
    );
    fixture
        .accept("/v1/agent/check/fail/alive", &Value::Null)
        .await;
    let answer = fixture.get("/v1/agent/health/service/name/shop").await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.json()[0]["AggregatedStatus"].clone()
        ),
        (503, json!("critical"))
    );
    fixture.shop("shop-1", &json!({"Port": 8081})).await;
    assert_eq!(
        fixture.seen("/v1/agent/checks").await["alive"]["Status"],
        "critical",
        "it is kept"
    );
    fixture
        .accept("/v1/agent/check/deregister/alive", &Value::Null)
        .await;
    assert_eq!(fixture.seen("/v1/agent/checks").await, json!({}));
    fixture
        .refuse(
            "/v1/agent/check/pass/alive",
            &Value::Null,
            404,
            "Unknown check ID",
        )
        .await;
    let tcp =
        json!({"Name": "tcp", "ServiceID": "shop-1", "TCP": "10.0.0.3:8080", "Interval": "5s"});
    fixture.accept("/v1/agent/check/register", &tcp).await;
    fixture
        .refuse("/v1/agent/check/pass/tcp", &Value::Null, 400, "TTL")
        .await;
    let unknown = json!({"Name": "x", "ServiceID": "nobody", "TTL": "5s"});
    fixture
        .refuse("/v1/agent/check/register", &unknown, 404, "nobody")
        .await;
    fixture.stop().await;
}

#[tokio::test]
async fn maintenance_and_checks_of_the_node_keep_instances_out() {
    let fixture = Fixture::new().await;
    fixture.shop("shop-1", &json!({})).await;
    let passing = async || {
        let list = fixture.seen("/v1/health/service/shop?passing").await;
        list.as_array().unwrap().len()
    };
    assert_eq!(passing().await, 1);
    fixture
        .accept(
            "/v1/agent/service/maintenance/shop-1?enable=true&reason=disk",
            &Value::Null,
        )
        .await;
    assert_eq!(passing().await, 0);
    let checks = fixture.seen("/v1/agent/checks").await;
    assert_eq!(checks["_service_maintenance:shop-1"]["Notes"], "");
    assert_eq!(checks["_service_maintenance:shop-1"]["Output"], "disk");
    fixture
        .accept(
            "/v1/agent/service/maintenance/shop-1?enable=false",
            &Value::Null,
        )
        .await;
    assert_eq!(passing().await, 1);
    fixture
        .refuse(
            "/v1/agent/service/maintenance/shop-1",
            &Value::Null,
            400,
            "enable",
        )
        .await;
    let disk = json!({"Name": "disk", "TTL": "10s"});
    fixture.accept("/v1/agent/check/register", &disk).await;
    assert_eq!(passing().await, 0, "the node is unwell");
    fixture
        .accept("/v1/agent/check/pass/disk", &Value::Null)
        .await;
    assert_eq!(passing().await, 1);
    let node = fixture.seen("/v1/health/node/here").await;
    let disk = node
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["CheckID"] == "disk")
        .unwrap();
    assert_eq!(
        (&disk["Status"], &disk["ServiceID"]),
        (&json!("passing"), &json!(""))
    );
    fixture
        .accept("/v1/agent/maintenance?enable=true", &Value::Null)
        .await;
    assert_eq!(passing().await, 0);
    fixture.stop().await;
}

#[tokio::test]
async fn all_checks_of_a_node_count() {
    let fixture = Fixture::new().await;
    fixture.shop("shop-1", &json!({})).await;
    let disk = json!({"Name": "disk", "TTL": "10s"});
    fixture.accept("/v1/agent/check/register", &disk).await;
    let check = json!({"TTL": "1h", "Status": "passing"});
    let more = json!({"ID": "node:more", "Name": "consul", "Address": "10.0.0.9", "Check": check});
    fixture.accept("/v1/agent/service/register", &more).await;
    let found = fixture.seen("/v1/health/service/shop").await;
    let checks = found[0]["Checks"].as_array().unwrap().iter();
    let ids: Vec<&str> = checks.filter_map(|it| it["CheckID"].as_str()).collect();
    assert_eq!(ids, ["serfHealth", "disk", "service:node:more"]);
    fixture.stop().await;
}

#[tokio::test]
async fn other_nodes_are_registered_in_the_catalog() {
    let fixture = Fixture::new().await;
    let body = json!({"Node": "far", "Address": "10.9.0.1", "Datacenter": "dc1",
        "Service": {"ID": "db-1", "Service": "db", "Port": 5432, "Address": "10.9.0.2"},
        "Check": {"Node": "far", "CheckID": "service:db-1", "Name": "db", "Status": "passing", "Output": "2 ms",
            "ServiceID": "db-1"}});
    fixture.accept("/v1/catalog/register", &body).await;
    let found = fixture.seen("/v1/health/service/db?passing").await;
    assert_eq!(
        (&found[0]["Node"]["Node"], &found[0]["Node"]["Address"]),
        (&json!("far"), &json!("10.9.0.1"))
    );
    assert_eq!(found[0]["Service"]["Address"], "10.9.0.2");
    assert_eq!(found[0]["Checks"][1]["Output"], "2 ms");
    assert_eq!(
        fixture.seen("/v1/agent/services").await,
        json!({}),
        "it is not of this node"
    );
    assert_eq!(
        fixture
            .seen("/v1/catalog/nodes")
            .await
            .as_array()
            .unwrap()
            .len(),
        2
    );
    fixture
        .accept("/v1/catalog/deregister", &json!({"Node": "far"}))
        .await;
    assert_eq!(fixture.seen("/v1/catalog/services").await, json!({}));
    fixture.stop().await;
}

#[tokio::test]
async fn a_filter_chooses_where_there_is_something_to_choose() {
    let fixture = Fixture::new().await;
    let fields = json!({"Tags": ["blue"], "Meta": {"app.version": "2"}});
    fixture.shop("shop-1", &fields).await;
    let other = json!({"Name": "other", "Address": "10.0.0.5", "Port": 80});
    fixture.accept("/v1/agent/service/register", &other).await;
    let shop = "filter=Service%20==%20shop";
    let node = fixture.seen(&format!("/v1/catalog/node/here?{shop}")).await;
    assert_eq!(node["Node"]["Node"], "here");
    let ids: Vec<&String> = node["Services"].as_object().unwrap().keys().collect();
    assert_eq!(ids, ["shop-1"]);
    let node = fixture
        .seen(&format!("/v1/catalog/node-services/here?{shop}"))
        .await;
    assert_eq!(node["Node"]["Node"], "here");
    assert_eq!(node["Services"].as_array().unwrap().len(), 1);
    let path = "/v1/catalog/services?filter=ServiceMeta[%22app.version%22]%20==%202";
    assert_eq!(fixture.seen(path).await, json!({"shop": ["blue"]}));
    for path in ["agent/self", "kv/a", "status/leader"] {
        let answer = fixture.get(&format!("/v1/{path}?{shop}")).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
    }
    fixture.stop().await;
}

#[tokio::test]
async fn an_endpoint_with_a_name_is_no_instance() {
    let fixture = Fixture::new().await;
    let service = json!({"spec": {"ports": [{"name": "http", "port": 80}]}});
    let path = "/api/v1/namespaces/default/services/pay";
    assert_eq!(fixture.put(path, &service).await.status, 201);
    let pattern = json!({"spec": {"service": "pay", "hostname": "api.example.com"}});
    let path = "/api/v1/namespaces/default/endpoints/pay";
    assert_eq!(fixture.put(path, &pattern).await.status, 201);
    for path in ["catalog/service/pay", "health/service/pay?passing"] {
        let found = fixture.seen(&format!("/v1/{path}")).await;
        assert_eq!(found, json!([]), "{path}");
    }
    assert_eq!(fixture.seen("/v1/agent/services").await, json!({}));
    let snapshot = fixture.store.snapshot();
    let service = &snapshot.services[&ObjectKey::new("default", "pay")];
    let view = service.status.availability.as_ref().map(|it| it.view);
    assert_eq!(view, Some(View::Down));
    fixture.stop().await;
}

#[tokio::test]
async fn keys_are_settings_of_services() {
    let fixture = Fixture::new().await;
    fixture.shop("shop-1", &json!({})).await;
    let put = async |path: &str, value: &str| {
        let answer = fixture.raw("PUT", path, value).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    assert_eq!(put("/v1/kv/default/shop/timeout", "5s").await, true);
    let snapshot = fixture.store.snapshot();
    let service = &snapshot.services[&ObjectKey::new("default", "shop")];
    assert_eq!(service.spec.configuration["timeout"], "5s");
    let item = fixture.seen("/v1/kv/default/shop/timeout").await[0].clone();
    assert_eq!(
        (&item["Key"], &item["Value"]),
        (&json!("default/shop/timeout"), &json!("NXM="))
    );
    let raw = fixture.get("/v1/kv/default/shop/timeout?raw").await;
    assert_eq!(raw.text, "5s");
    assert_eq!(put("/v1/kv/default/shop/timeout?cas=0", "6s").await, false);
    let modified = item["ModifyIndex"].as_u64().unwrap();
    assert_eq!(
        put(&format!("/v1/kv/default/shop/timeout?cas={modified}"), "6s").await,
        true
    );
    assert_eq!(
        put(&format!("/v1/kv/default/shop/timeout?cas={modified}"), "7s").await,
        false
    );
    assert_eq!(put("/v1/kv/feature/x?cas=0", "on").await, true);
    assert_eq!(
        fixture.seen("/v1/kv/?keys").await,
        json!(["default/shop/timeout", "feature/x"])
    );
    assert_eq!(
        fixture.seen("/v1/kv/?keys&separator=/").await,
        json!(["default/", "feature/"])
    );
    assert_eq!(
        fixture.seen("/v1/kv/feature?recurse").await[0]["Value"],
        "b24="
    );
    assert_eq!(
        fixture.seen("/v1/catalog/services").await,
        json!({"shop": []}),
        "keys are no service"
    );
    let absent = fixture.get("/v1/kv/nobody").await;
    assert_eq!((absent.status.as_u16(), absent.text.as_str()), (404, ""));
    assert!(index(&absent) > 0);
    fixture.raw("DELETE", "/v1/kv/feature?recurse", "").await;
    assert_eq!(fixture.get("/v1/kv/feature/x").await.status, 404);
    fixture
        .raw("DELETE", "/v1/kv/default/shop/timeout", "")
        .await;
    assert_eq!(fixture.get("/v1/kv/?keys").await.status, 404);
    let session = fixture.raw("PUT", "/v1/kv/a?acquire=x", "").await;
    assert_eq!(session.status, 400);
    fixture.stop().await;
}

#[tokio::test]
async fn a_query_waits_for_its_own_answer_only() {
    let fixture = Fixture::new().await;
    fixture.shop("shop-1", &json!({})).await;
    let first = fixture.get("/v1/health/service/shop").await;
    let known = index(&first);
    let other = json!({"Name": "other", "Address": "10.0.0.5", "Port": 80});
    fixture.accept("/v1/agent/service/register", &other).await;
    let same = fixture.get("/v1/health/service/shop").await;
    assert_eq!(index(&same), known, "another service has come");
    let path = format!("/v1/health/service/shop?index={known}&wait=100ms");
    let waited = fixture.get(&path).await;
    assert_eq!((index(&waited), &waited.text), (known, &first.text));
    let path = format!("/v1/health/service/shop?index={known}&wait=60s");
    let (address, began) = (fixture.address, std::time::Instant::now());
    let waiting = tokio::spawn(async move {
        send(address, Request::get(path).body(Body::empty()).unwrap()).await
    });
    fixture.shop("shop-2", &json!({})).await;
    let answer = waiting.await.unwrap();
    assert!(index(&answer) > known && began.elapsed() < Duration::from_secs(30));
    // Between the two writes of a registration it may be seen half done; the next look has it.
    let next = fixture.get("/v1/health/service/shop").await;
    assert_eq!(next.json().as_array().unwrap().len(), 2);
    assert_eq!(next.headers["x-consul-knownleader"], "true");
    fixture.stop().await;
}

#[tokio::test]
async fn a_query_for_a_key_waits_for_it() {
    let fixture = Fixture::new().await;
    fixture.shop("shop-1", &json!({})).await;
    for key in ["default/shop/timeout", "colour"] {
        let path = format!("/v1/kv/{key}");
        fixture.raw("PUT", &path, "1").await;
        let known = index(&fixture.get(&path).await);
        fixture.raw("PUT", "/v1/kv/default/shop/other", key).await;
        let asked = format!("{path}?index={known}&wait=100ms");
        assert_eq!(index(&fixture.get(&asked).await), known, "another key");
        let asked = format!("{path}?index={known}&wait=60s");
        let (address, began) = (fixture.address, std::time::Instant::now());
        let waiting = tokio::spawn(async move {
            send(address, Request::get(asked).body(Body::empty()).unwrap()).await
        });
        fixture.raw("PUT", &path, "2").await;
        let answer = waiting.await.unwrap();
        assert!(index(&answer) > known && began.elapsed() < Duration::from_secs(30));
        assert_eq!(answer.json()[0]["Value"], "Mg==");
    }
    fixture.stop().await;
}

#[tokio::test]
async fn a_token_is_taken_from_the_header_of_consul() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "0123456789abcdef").unwrap();
    let config = Config {
        token_file: Some(token.path().to_owned()),
        ..config()
    };
    let fixture = Fixture::with(config).await;
    let ask = async |token: &str| {
        let request = Request::get("/v1/agent/services").header("X-Consul-Token", token);
        fixture.send(request.body(Body::empty()).unwrap()).await
    };
    assert_eq!(ask("0123456789abcdef").await.status, 200);
    let refused = ask("wrong").await;
    assert_eq!(refused.status, 403);
    assert!(
        refused.text.starts_with("Permission denied"),
        "{}",
        refused.text
    );
    fixture.stop().await;
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let fixture = Fixture::new().await;
    let register = "/v1/agent/service/register";
    fixture
        .refuse(register, &json!({"ID": "a"}), 400, "Missing service name")
        .await;
    fixture
        .refuse(register, &json!([]), 400, "JSON object")
        .await;
    let proxy = json!({"Name": "a", "Kind": "connect-proxy"});
    fixture
        .refuse(register, &proxy, 400, "Kind is not supported")
        .await;
    for (method, path, status, text) in [
        (
            "GET",
            "/v1/session/list",
            404,
            "there is nothing at /v1/session/list",
        ),
        ("GET", register, 405, "GET is not possible here"),
        ("PUT", register, 400, "Request decode failed"),
        ("PUT", "/v1/agent/check/pass/none", 404, "none"),
    ] {
        let answer = fixture.raw(method, path, "").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        let kind = answer.headers[CONTENT_TYPE].to_str().unwrap();
        assert_eq!(kind, "text/plain; charset=utf-8", "{method} {path}");
        assert!(
            answer.text.contains(text) && !answer.text.starts_with('{'),
            "{}",
            answer.text
        );
    }
    let answer = fixture.get("/v1/catalog/services?dc=dc2").await;
    assert_eq!(answer.status, 500);
    let answer = fixture.get("/v1/health/state/odd").await;
    assert_eq!(answer.status, 400);
    let answer = fixture.get("/v1/catalog/services?filter=%3D").await;
    assert_eq!(answer.status, 400);
    assert_eq!(fixture.store.snapshot().revision, 0, "nothing changes");
    fixture.stop().await;
}

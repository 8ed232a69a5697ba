//! Objects: every status and every field of a refusal.

use super::*;

/// One object per kind, with every field that has one: plural, name and body.
fn examples() -> [(&'static str, &'static str, Value); 10] {
    let object = |kind: &str, name: &str, spec: Value| {
        let metadata = json!({"name": name, "namespace": "shop"});
        json!({"apiVersion": "mesh.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let service = json!({"addresses": ["240.240.0.10"], "mode": "auto", "balancing": "LeastRequest",
        "ports": [{"name": "http", "port": 80, "protocol": "http"}]});
    let endpoint = json!({"service": "web", "address": "10.0.0.3", "ports": {"http": 8080},
        "weight": 1, "version": "v1"});
    let workload = json!({"netns": "/run/netns/pod-a", "addresses": ["10.0.0.2"],
        "serviceAccount": "client", "failMode": "open", "acceleration": true});
    let from =
        json!([{"namespaces": ["shop"], "serviceAccounts": ["client"], "cidrs": ["10.0.0.0/8"]}]);
    let policy = json!({"target": {"kind": "Service", "name": "web"}, "action": "Allow",
        "mode": "Enforce", "rules": [{"from": from, "to": [{"ports": [80]}]}]});
    let traffic = json!({"target": {"kind": "HTTPRoute", "name": "web", "sectionName": "all"},
        "retries": {"attempts": 2, "on": ["5xx"]}, "timeouts": {"request": "1s"}});
    let from = json!([{"group": "mesh.dev", "kind": "TrafficPolicy", "namespace": "far"}]);
    let grant = json!({"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "far", "namespace": "shop"},
        "spec": {"from": from, "to": [{"group": "", "kind": "Service"}]}});
    [
        ("services", "web", object("Service", "web", service)),
        ("endpoints", "web-1", object("Endpoint", "web-1", endpoint)),
        (
            "workloads",
            "client",
            object("Workload", "client", workload),
        ),
        (
            "authorizationpolicies",
            "only-client",
            object("AuthorizationPolicy", "only-client", policy),
        ),
        ("httproutes", "web", route("HTTPRoute", "v1")),
        ("grpcroutes", "web", route("GRPCRoute", "v1")),
        ("tcproutes", "web", route("TCPRoute", "v1alpha2")),
        ("tlsroutes", "web", route("TLSRoute", "v1")),
        ("referencegrants", "far", grant),
        (
            "trafficpolicies",
            "web",
            object("TrafficPolicy", "web", traffic),
        ),
    ]
}

/// A route of a kind in a version of the Gateway API.
fn route(kind: &str, version: &str) -> Value {
    let spec = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
        "rules": [{"name": "all", "backendRefs": [{"name": "web", "port": 80, "weight": 3}]}]});
    json!({"apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": kind,
        "metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
}

#[tokio::test]
async fn object_of_every_kind_is_made_read_changed_and_deleted() {
    let fixture = Fixture::new().await;
    let objects = examples();
    for (kind, name, body) in &objects {
        let path = format!("/api/v1/namespaces/shop/{kind}/{name}");

        let created = fixture.put(&path, body).await;
        assert_eq!(created.status, 201, "{created:?}");
        let again = fixture.put(&path, &created.json()).await;
        assert_eq!(again.status, 200, "{again:?}");
        assert_eq!(again.json(), created.json(), "nothing was written");
        let mut labelled = created.json();
        labelled["metadata"]["labels"] = json!({"team": "a"});
        let changed = fixture.put(&path, &labelled).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        assert_eq!(fixture.get(&path).await.json(), changed.json());

        let metadata = &changed.json()["metadata"];
        assert_eq!(metadata["generation"], 1, "labels are no spec");
        assert_eq!(metadata["uid"], created.json()["metadata"]["uid"]);
        assert_ne!(
            metadata["resourceVersion"],
            created.json()["metadata"]["resourceVersion"]
        );
        let tag = changed.headers["etag"].to_str().unwrap().trim_matches('"');
        assert_eq!(metadata["resourceVersion"], tag);
        assert_eq!(changed.headers["cache-control"], "no-store");
    }
    for (kind, name, _) in &objects {
        let path = format!("/api/v1/namespaces/shop/{kind}/{name}");
        for list in [
            format!("/api/v1/namespaces/shop/{kind}"),
            format!("/api/v1/{kind}"),
        ] {
            let list = fixture.get(&list).await.json();
            assert_eq!(list["items"][0]["metadata"]["name"], *name);
            let revision = fixture.store.snapshot().revision.to_string();
            assert_eq!(list["metadata"]["resourceVersion"], revision);
        }
        let other = fixture.get(&format!("/api/v1/namespaces/bar/{kind}")).await;
        assert_eq!(other.json()["items"], json!([]));
        let deleted = fixture.delete(&path).await;
        assert_eq!(deleted.status, 200);
        assert_eq!(deleted.json()["metadata"]["name"], *name);
        let gone = (404, String::new(), "NotFound".to_owned());
        assert_eq!(fixture.get(&path).await.problem(), gone);
        assert_eq!(fixture.delete(&path).await.problem(), gone);
    }
    fixture.stop().await;
}

#[tokio::test]
async fn stale_version_is_a_conflict_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let first = fixture.put(WEB, &service()).await.json();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut wanted = service();
    wanted["spec"]["mode"] = json!("direct");
    let with = |header: &str, method: Method| {
        let mut request = request(method, WEB, &wanted);
        request
            .headers_mut()
            .insert("if-match", header.parse().unwrap());
        request
    };

    let conflict = (
        409,
        "metadata.resourceVersion".to_owned(),
        "Conflict".to_owned(),
    );
    let stale = fixture.send(with("\"999\"", Method::PUT)).await;
    assert_eq!(stale.problem(), conflict);
    let stale = fixture.send(with("999", Method::DELETE)).await;
    assert_eq!(stale.problem(), conflict);
    // A uid of another registry excuses the version in the object, not the one in the header.
    let path = "/api/v1/namespaces/shop/httproutes/web";
    let mut foreign = route("HTTPRoute", "v1");
    assert_eq!(fixture.put(path, &foreign).await.status, 201);
    foreign["metadata"]["uid"] = json!("0a1b2c3d-0000-4000-8000-000000000000");
    let mut stale = request(Method::PUT, path, &foreign);
    stale
        .headers_mut()
        .insert("if-match", "\"999\"".parse().unwrap());
    assert_eq!(fixture.send(stale).await.problem(), conflict);
    let mut document = wanted.clone();
    document["metadata"] = json!({"resourceVersion": "999"});
    assert_eq!(fixture.put(WEB, &document).await.problem(), conflict);
    assert_eq!(fixture.get(WEB).await.json(), first);

    let tag = format!("\"{version}\"");
    assert_eq!(fixture.send(with(&tag, Method::PUT)).await.status, 200);
    assert_eq!(
        fixture.send(with(&tag, Method::PUT)).await.problem(),
        conflict,
        "the version was replaced"
    );
    assert_eq!(fixture.send(with("*", Method::PUT)).await.status, 200);
    assert_eq!(fixture.send(with("*", Method::DELETE)).await.status, 200);
    assert_eq!(
        fixture.send(with("*", Method::PUT)).await.problem(),
        conflict,
        "there is none to replace"
    );
    let answer = fixture.send(with("\"1\", \"2\"", Method::PUT)).await;
    assert_eq!(answer.problem().0, 400);
    fixture.stop().await;
}

#[tokio::test]
async fn bad_input_gets_a_problem_with_the_field() {
    let fixture = Fixture::new().await;
    let raw = |content_type: &str, body: String| {
        Request::put(WEB)
            .header(CONTENT_TYPE, content_type)
            .body(Body::from(body))
            .unwrap()
    };
    let check = async |request: Request<Body>, status: u16, field: &str, reason: &str| {
        let answer = fixture.send(request).await;
        let expected = (status, field.to_owned(), reason.to_owned());
        assert_eq!(answer.problem(), expected, "{answer:?}");
    };
    let json_type = "application/json; charset=utf-8";
    check(raw(json_type, "{".to_owned()), 400, "body", "MalformedJson").await;
    check(raw(json_type, String::new()), 400, "body", "MalformedJson").await;
    let deep = "[".repeat(100_000);
    check(raw(json_type, deep), 400, "body", "MalformedJson").await;
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    check(raw(json_type, large), 413, "body", "TooLarge").await;
    check(
        raw("text/yaml", "a: 1".to_owned()),
        415,
        "Content-Type",
        "UnsupportedMediaType",
    )
    .await;
    let document = |spec: Value| raw(json_type, json!({ "spec": spec }).to_string());
    check(
        document(json!({"ports": [{"name": "a", "port": 70_000}]})),
        422,
        "spec.ports[0].port",
        "Invalid",
    )
    .await;
    check(raw(json_type, "[]".to_owned()), 422, "body", "Invalid").await;
    check(document(json!({"ports": []})), 422, "spec.ports", "Invalid").await;
    check(
        document(json!({"ports": [], "mtls": {}})),
        422,
        "spec.mtls",
        "NotSupported",
    )
    .await;
    check(
        raw(json_type, json!({"kind": "Workload"}).to_string()),
        422,
        "kind",
        "Invalid",
    )
    .await;
    assert_eq!(fixture.store.snapshot().revision, 0, "nothing changes");
    fixture.stop().await;
}

#[tokio::test]
async fn unknown_paths_methods_and_kinds_are_problems_too() {
    let fixture = Fixture::new().await;
    let answer = fixture.get("/api/v2/services").await;
    assert_eq!(answer.problem().2, "NotFound");
    let post = request(Method::POST, WEB, &service());
    let answer = fixture.send(post).await;
    assert_eq!(answer.problem().2, "MethodNotAllowed");
    assert!(answer.headers.contains_key("allow"));
    let later = "/api/v1/namespaces/shop/gateways/web";
    let answer = fixture.put(later, &json!({})).await;
    assert_eq!(
        answer.problem(),
        (422, "kind".to_owned(), "NotSupported".to_owned())
    );
    let answer = fixture.get("/api/v1/namespaces/shop/services/%ff").await;
    assert_eq!(answer.problem().0, 400);
    let answer = fixture.get("/api/v1/services?limit=1").await;
    assert_eq!(answer.problem().1, "query");
    let answer = fixture.get("/api/v1/services?watch=perhaps").await;
    assert_eq!(answer.problem().1, "watch");
    fixture.stop().await;
}

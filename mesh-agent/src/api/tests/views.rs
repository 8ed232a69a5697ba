//! What the agent tells about itself.

use super::*;

#[tokio::test]
async fn views_show_what_the_node_says() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture.get("/api/v1/status").await.json()["version"],
        "test"
    );
    assert_eq!(
        fixture.get("/api/v1/coverage").await.json(),
        json!({"items": []})
    );
    assert_eq!(
        fixture.get("/api/v1/connections").await.json(),
        json!({"items": []})
    );
    assert_eq!(
        fixture.get("/api/v1/bpf").await.problem(),
        (503, String::new(), "Unavailable".to_owned())
    );
    let metrics = fixture.get("/metrics").await;
    assert_eq!(metrics.text, "# EOF\n");
    let content_type = metrics.headers[CONTENT_TYPE].to_str().unwrap();
    assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
    let docs = fixture.get("/docs/").await;
    assert_eq!(docs.status, 200);
    assert!(docs.text.contains("swagger-ui"));
    let script = fixture.get("/docs/swagger-initializer.js").await;
    assert!(script.text.contains("/openapi.json"), "{}", script.text);
    fixture.stop().await;
}

#[tokio::test]
async fn filter_that_a_view_does_not_have_is_refused() {
    let fixture = Fixture::new().await;
    for path in [
        "connections?namespace=shop",
        "coverage?workload=web",
        "breakers?name=web",
    ] {
        let answer = fixture.get(&format!("/api/v1/{path}")).await;
        let (status, field, _) = answer.problem();
        assert_eq!((status, field.as_str()), (400, "query"), "{path}");
    }
    for path in ["connections", "coverage?", "breakers"] {
        let answer = fixture.get(&format!("/api/v1/{path}")).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    fixture.stop().await;
}

#[tokio::test]
async fn explain_checks_its_question() {
    let fixture = Fixture::new().await;
    let check = async |query: &str, status: u16, field: &str| {
        let answer = fixture.get(&format!("/api/v1/explain?{query}")).await;
        let (got, named, _) = answer.problem();
        assert_eq!((got, named.as_str()), (status, field), "{query}");
    };
    check("", 400, "query").await;
    check("source=client&destination=1.2.3.4:80", 400, "source").await;
    check("source=shop/client&destination=web", 400, "destination").await;
    check("source=shop/client&destination=1.2.3.4:80", 404, "source").await;
    let client = json!({"spec": {"netns": "/run/netns/pod-a"}});
    let path = "/api/v1/namespaces/shop/workloads/client";
    assert_eq!(fixture.put(path, &client).await.status, 201);

    let explained = fixture
        .get("/api/v1/explain?source=shop/client&destination=[fd00::1]:81")
        .await;

    assert_eq!(explained.json()["verdict"], "pass");
    assert_eq!(explained.json()["reason"], "dialled-81");
    let explained = fixture
        .get("/api/v1/explain?source=shop/client&destination=[fd00::1]:81&transport=udp")
        .await;
    assert_eq!(explained.json()["reason"], "sent-81");
    assert_eq!(explained.json()["request"], Value::Null);
    let asked = "source=shop/client&destination=1.2.3.4:80";
    check(&format!("{asked}&header=x"), 400, "header").await;
    check(&format!("{asked}&path=/&path=/"), 400, "query").await;
    check(&format!("{asked}&paht=/"), 400, "query").await;
    let query = format!("{asked}&path=/a%3Fb=1&header=x-a:1&header=x-b:%202");
    let explained = fixture.get(&format!("/api/v1/explain?{query}")).await;
    let request = &explained.json()["request"];
    assert_eq!(
        (&request["path"], &request["reason"]),
        (&json!("/a?b=1"), &json!("GET"))
    );
    assert_eq!(request["filters"], json!(["x-a=1", "x-b=2"]));
    fixture.stop().await;
}

#[tokio::test]
async fn config_dump_shows_objects_and_numbers() {
    let fixture = Fixture::new().await;
    fixture.put(WEB, &service()).await;

    let dump = fixture.get("/api/v1/config_dump").await.json();

    assert_eq!(dump["revision"], 1);
    assert_eq!(dump["objects"]["services"][0]["metadata"]["name"], "web");
    assert_eq!(dump["objects"]["authorizationpolicies"], json!([]));
    assert_eq!(dump["ids"].as_array().unwrap().len(), 3);
    assert_eq!(dump["node"]["workers"], 2);
    fixture.stop().await;
}

#[tokio::test]
async fn log_level_is_changed_or_refused_with_the_field() {
    let fixture = Fixture::new().await;
    let put = async |body: Value| fixture.put("/api/v1/log-level", &body).await;
    assert_eq!(put(json!({"level": "debug"})).await.status, 200);
    for wrong in [json!({"level": "loud"}), json!({"level": 3}), json!({})] {
        let (status, field, _) = put(wrong).await.problem();
        assert_eq!((status, field.as_str()), (422, "level"));
    }
    fixture.stop().await;
}

#[tokio::test]
async fn draining_agent_is_not_ready_and_says_why() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.get("/readyz").await.status, 200);
    let drain = request(Method::POST, "/api/v1/drain", &json!({}));

    let answer = fixture.send(drain).await;

    assert_eq!(answer.status, 202);
    assert_eq!(answer.json()["draining"], true);
    let ready = fixture.get("/readyz").await;
    assert_eq!(ready.problem().0, 503);
    assert_eq!(ready.json()["pending"], json!(["draining"]));
    assert_eq!(fixture.get("/healthz").await.status, 200);
    fixture.stop().await;
}

#[tokio::test]
async fn readiness_says_what_is_not_up_and_a_rehearsal_writes_nothing() {
    let fixture = Fixture::new().await;
    let path = |name: &str| format!("/api/v1/namespaces/shop/services/{name}");
    let ports = json!([{"name": "http", "port": 80}]);
    let web = json!({"spec": {"ports": ports, "dependencies": [{"name": "db"}]}});

    let rehearsed = format!("{}?dryRun=true", path("web"));
    assert_eq!(fixture.put(&rehearsed, &web).await.status, 201);
    assert_eq!(fixture.get(&path("web")).await.status, 404);
    let odd = format!("{}?dryrun=true", path("web"));
    let (status, field, _) = fixture.put(&odd, &web).await.problem();
    assert_eq!((status, field.as_str()), (400, "query"));
    assert_eq!(fixture.delete(&rehearsed).await.status, 404);
    assert_eq!(fixture.put(&path("web"), &web).await.status, 201);
    assert_eq!(fixture.delete(&rehearsed).await.status, 200);
    let (status, field, _) = fixture.delete(&odd).await.problem();
    assert_eq!((status, field.as_str()), (400, "query"));
    let stale = Request::delete(&rehearsed).header("if-match", "\"7\"");
    let stale = stale.body(Body::empty()).unwrap();
    assert_eq!(fixture.send(stale).await.status, 409);
    assert_eq!(fixture.get(&path("web")).await.status, 200);

    let readiness = "/api/v1/namespaces/shop/readiness?service=";
    let answer = fixture.get(&format!("{readiness}web")).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(
        answer.json()["dependencies"][0]["reason"],
        "ServiceNotFound"
    );
    assert_eq!(fixture.get(&format!("{readiness}db")).await.status, 404);
    let graph = fixture.get("/api/v1/graph?namespace=shop").await;
    assert_eq!(
        graph.json(),
        json!({"nodes": [], "edges": [], "uncounted": 0})
    );
    let (status, field, _) = fixture.get("/api/v1/graph?name=x").await.problem();
    assert_eq!((status, field.as_str()), (400, "query"));
    fixture.stop().await;
}

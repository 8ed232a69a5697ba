//! Routes across namespaces: for callers of their own, and to services that permit it.

use mesh_tests::assert_eventually;
use mesh_tests::node::has_condition;
use mesh_tests::registry::object;
use serde_json::{Value, json};

use crate::routing::{ask, open, route, to};
use crate::shop::WEB;

#[test]
fn namespaces_route_for_their_own_callers_and_permit_others() {
    let Some(shop) = open(1, &["a", "b"]) else {
        return;
    };
    let far = |mut object: Value| {
        object["metadata"]["namespace"] = json!("far");
        object
    };
    let parent = json!({"group": "", "kind": "Service", "name": "web", "namespace": "shop"});
    let consumer = |backend: Value| {
        let mut consumer = far(route(
            "HTTPRoute",
            "web",
            &json!([{"backendRefs": [backend]}]),
        ));
        consumer["spec"]["parentRefs"] = json!([parent]);
        consumer
    };
    shop.node.apply(&[route(
        "HTTPRoute",
        "web",
        &json!([{"backendRefs": to("a")}]),
    )]);
    let to_b = json!({"name": "b", "namespace": "shop", "port": 80});
    shop.node.api().apply(&consumer(to_b));
    let path = "/api/v1/namespaces/far/httproutes/r";
    let told = || shop.node.api().get(path)["status"]["parents"][0].take();
    assert_eq!(told()["controllerName"], "mesh.dev/agent");
    assert_eq!(told()["parentRef"]["namespace"], "shop");
    assert_eq!(told()["conditions"][0]["status"], "True");
    assert_eq!(told()["conditions"][1]["reason"], "RefNotPermitted");
    // Callers of the service's own namespace are none of its business.
    assert_eventually!(ask(&shop, "GET", "/", &[]).header("x-server") == "a");

    let stranger = shop.node.pod("stranger");
    let spec = json!({"netns": stranger.netns().path(), "addresses": [stranger.v4()],
        "serviceAccount": "stranger"});
    let workload = far(object("Workload", "stranger", &spec));
    shop.node.api().apply(&workload);
    let path = "/api/v1/namespaces/far/workloads/stranger";
    assert_eventually!(has_condition(&shop.node.api().get(path), "Enrolled"));
    let asked = || stranger.request("GET", WEB, &[], "").unwrap();
    assert_eventually!(asked().header("x-mesh-error") == "bad-backend");

    let from =
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "far"}]);
    let mut grant = object(
        "ReferenceGrant",
        "for-far",
        &json!({"from": from, "to": [{"group": "", "kind": "Service", "name": "b"}]}),
    );
    grant["apiVersion"] = json!("gateway.networking.k8s.io/v1beta1");
    shop.node.apply(&[grant.clone()]);
    assert_eventually!(asked().header("x-server") == "b");
    assert_eq!(told()["conditions"][1]["reason"], "ResolvedRefs");
    assert_eq!(ask(&shop, "GET", "/", &[]).header("x-server"), "a");
    shop.node.delete(&grant);
    assert_eventually!(asked().status == 500);
}

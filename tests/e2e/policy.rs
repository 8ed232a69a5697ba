//! Authorization: allow, deny, audit, at connect and at the destination, for direct and proxied connections.

use mesh_tests::assert_eventually;
use mesh_tests::pod::Pod;
use mesh_tests::protocol::ServerKind;
use mesh_tests::registry::{endpoint, object, policy, service, with};
use serde_json::{Value, json};

use crate::shop::{CACHE_PORT, Shop, WEB, cache, web};

/// A shop with a second enrolled client.
fn two_clients() -> Option<(Pod, Shop)> {
    let shop = Shop::open(1)?;
    let other = shop.node.pod("other");
    shop.node.enrol(&other);
    shop.open_web();
    shop.open_cache();
    Some((other, shop))
}

fn only_client() -> Value {
    json!({ "namespaces": ["shop"], "serviceAccounts": ["client"] })
}

#[test]
fn a_service_with_an_allow_policy_denies_the_rest() {
    let Some((other, shop)) = two_clients() else {
        return;
    };
    shop.node.apply(&[
        policy("web", "Allow", ("Service", "web"), &only_client()),
        policy("cache", "Allow", ("Service", "cache"), &only_client()),
    ]);
    assert_eq!(shop.client.get(WEB).status, 200);
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
    for address in [web(), cache()] {
        assert_eq!(
            other.connect(address).unwrap_err().kind,
            "ConnectionRefused"
        );
    }
}

#[test]
fn dialling_the_endpoint_does_not_go_around_the_policy() {
    let Some((other, shop)) = two_clients() else {
        return;
    };
    shop.node.apply(&[policy(
        "cache",
        "Allow",
        ("Service", "cache"),
        &only_client(),
    )]);
    let endpoint = shop.server().at(CACHE_PORT);
    shop.client
        .connect(endpoint)
        .unwrap()
        .echo("hello")
        .unwrap();
    assert_eq!(
        other.connect(endpoint).unwrap_err().kind,
        "ConnectionRefused"
    );
}

#[test]
fn an_allow_policy_without_rules_admits_nobody_until_it_is_deleted() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let spec = json!({ "target": { "kind": "Service", "name": "cache" }, "action": "Allow" });
    let nobody = object("AuthorizationPolicy", "nobody", &spec);
    shop.node.apply(std::slice::from_ref(&nobody));
    assert!(shop.client.connect(cache()).is_err());
    shop.node.delete(&nobody);
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
}

#[test]
fn a_policy_in_audit_only_counts() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let deny = policy("audit", "Deny", ("Service", "cache"), &only_client());
    shop.node.apply(&[with(deny, &json!({ "mode": "Audit" }))]);
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
    assert_eventually!(shop.coverage()["denied"] == 0 && shop.coverage()["direct"] == 1);
}

#[test]
fn the_destination_refuses_who_is_not_in_the_mesh() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let server = shop.server();
    shop.node.enrol(server);
    let stranger = shop.node.pod("stranger");
    let endpoint = server.at(CACHE_PORT);
    stranger.connect(endpoint).unwrap().echo("hello").unwrap();
    shop.node.apply(&[policy(
        "server",
        "Allow",
        ("Workload", server.name()),
        &only_client(),
    )]);
    assert!(
        stranger.connect(endpoint).is_err(),
        "refused by the destination"
    );
    shop.client
        .connect(endpoint)
        .unwrap()
        .echo("hello")
        .unwrap();
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
}

#[test]
fn the_proxy_passes_the_policy_of_the_destination_as_its_caller() {
    let Some((other, shop)) = two_clients() else {
        return;
    };
    let server = shop.server();
    shop.node.enrol(server);
    shop.node.apply(&[policy(
        "server",
        "Allow",
        ("Workload", server.name()),
        &only_client(),
    )]);
    assert_eq!(shop.client.get(WEB).status, 200);
    let refused = other.try_get(WEB);
    assert!(
        refused.as_ref().map_or(true, |answer| answer.status == 403),
        "{refused:?}"
    );
}

#[test]
fn networks_and_ports_are_matched() {
    let Some((other, shop)) = two_clients() else {
        return;
    };
    let network = format!("{}/32", other.v4());
    let mut deny = policy(
        "net",
        "Deny",
        ("Service", "cache"),
        &json!({ "cidrs": [network] }),
    );
    deny["spec"]["rules"][0]["to"] = json!([{ "ports": [6_379] }]);
    shop.node.apply(std::slice::from_ref(&deny));
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
    assert!(other.connect(cache()).is_err());
    deny["spec"]["rules"][0]["to"] = json!([{ "ports": [1] }]);
    shop.node.apply(&[deny]);
    other.connect(cache()).unwrap().echo("hello").unwrap();
}

#[test]
fn locked_egress_admits_services_only() {
    let Some(shop) = Shop::open_with(1, &json!({ "egress": "locked" })) else {
        return;
    };
    shop.open_web();
    shop.server().serve_echo(9_000);
    assert_eq!(shop.client.get(WEB).status, 200);
    let failure = shop.client.connect(shop.server().at(9_000)).unwrap_err();
    assert_eq!(failure.kind, "ConnectionRefused");
    assert_eventually!(shop.coverage()["reasons"]["egress-locked"] == 1);
}

#[test]
fn explain_says_what_happens() {
    let Some((other, shop)) = two_clients() else {
        return;
    };
    shop.node.apply(&[policy(
        "cache",
        "Allow",
        ("Service", "cache"),
        &only_client(),
    )]);
    let api = shop.node.api();
    let direct = api.explain("shop/client", "240.240.0.20:6379");
    assert_eq!(direct["verdict"], "direct", "{direct}");
    assert_eq!(direct["service"], "shop/cache");
    assert!(!direct["endpoints"].as_array().unwrap().is_empty());
    let denied = api.explain(&format!("shop/{}", other.name()), "240.240.0.20:6379");
    assert_eq!(
        (&denied["verdict"], &denied["reason"]),
        (&json!("deny"), &json!("policy"))
    );
    assert_eq!(denied["policy"], json!(["shop/cache"]));
    assert_eq!(
        api.explain("shop/client", "240.240.0.10:80")["verdict"],
        "proxy"
    );
    assert_eq!(
        api.explain("shop/client", "10.99.0.1:80")["verdict"],
        "pass"
    );
}

/// A server dials an address that it must not with the socket of a connection that the agent has opened to it.
fn check_redial(server_fields: &Value, forbids: impl FnOnce(&Pod) -> Option<Value>) {
    let Some(shop) = Shop::open(1) else { return };
    let server = shop.server();
    shop.node.enrol_with(server, server_fields);
    let vault = shop.node.pod("vault");
    shop.node.enrol(&vault);
    vault.serve_echo(9_000);
    let address = vault.at(9_000);
    let dialled: std::net::SocketAddr = "240.240.0.50:70".parse().unwrap();
    let redialling = server.serve(ServerKind::Redial { address }, 7_000);
    let opaque = service("opaque", &["240.240.0.50"], "tcp", 70, "tcp");
    let mut objects = vec![
        with(opaque, &json!({ "mode": "proxy" })),
        endpoint("opaque-1", "opaque", server.v4(), "tcp", 7_000),
    ];
    objects.extend(forbids(&vault));
    shop.node.apply(&objects);
    // Its end does not matter: the server leaves the connection.
    drop(shop.client.connect(dialled));
    assert_eventually!(!redialling.seen().redials.is_empty());
    let redials = redialling.seen().redials;
    let failure = redials[0].as_ref().unwrap_err();
    assert_eq!(failure.kind, "ConnectionRefused", "{failure:?}");
}

#[test]
fn a_socket_accepted_from_the_agent_does_not_go_around_a_policy() {
    check_redial(&json!({}), |vault| {
        let server = json!({ "namespaces": ["shop"], "serviceAccounts": ["server-1"] });
        Some(policy("vault", "Deny", ("Workload", vault.name()), &server))
    });
}

#[test]
fn a_socket_accepted_from_the_agent_does_not_leave_where_egress_is_locked() {
    check_redial(&json!({ "egress": "locked" }), |_vault| None);
}

//! Names of every shape.

use hickory_proto::rr::Name;
use serde_json::json;

use super::{Found, find};
use crate::state::Snapshot;
use crate::state::endpoint::Endpoint;
use crate::traffic::fixture::Fixture;

/// Services `shop/web` and `shop/dns`.
pub(in crate::dns) fn snapshot() -> Snapshot {
    let fixture = Fixture::default()
        .service("web", &json!({"addresses": ["240.240.0.1", "fd00:240:240::1"], "ports": [
            {"name": "http", "port": 80, "protocol": "http"}, {"name": "stats", "port": 80, "protocol": "udp"}]}))
        .service("db", &json!({"headless": true, "ports": [{"name": "sql", "port": 5432, "protocol": "tcp"}]}))
        .service("pay", &json!({"addresses": ["240.240.0.3"], "hostnames": ["api.example.com", "pay"],
            "ports": [{"name": "https", "port": 443, "protocol": "tls"}]}))
        .endpoint("db-1", &["sql"], &json!({"service": "db", "address": "10.0.0.1", "ports": {"sql": 5433}}))
        .endpoint("db-2", &["sql"], &json!({"service": "db", "address": "fd00::2"}))
        .endpoint("db-3", &["sql"], &json!({"service": "db", "address": "10.0.0.3", "draining": true}))
        .endpoint("db-4.b", &["sql"], &json!({"service": "db", "address": "10.0.0.4", "weight": 0}))
        .endpoint("db-5", &["sql"], &json!({"service": "db", "hostname": "db.example.com"}))
        .endpoint("web-1", &["http"], &json!({"service": "web", "address": "10.0.0.5"}))
        .service("dns", &json!({"addresses": ["240.240.0.2"], "ports": [{"name": "dns", "port": 53, "protocol": "udp"}]}));
    fixture.snapshot()
}

/// Besides, services whose names have dots: `shop/web.v1`, `shop/db-1.db` and `shop/db.v1`.
pub(in crate::dns) fn dotted() -> Snapshot {
    Fixture::from(snapshot())
        .service(
            "web.v1",
            &json!({"addresses": ["240.240.0.9"], "ports": [
            {"name": "http", "port": 80, "protocol": "http"}]}),
        )
        .service(
            "db-1.db",
            &json!({"addresses": ["240.240.0.10"], "ports": []}),
        )
        .service(
            "db.v1",
            &json!({"headless": true, "ports": [{"name": "sql", "port": 5432, "protocol": "tcp"}]}),
        )
        .endpoint(
            "a.b",
            &["sql"],
            &json!({"service": "db.v1", "address": "10.0.0.7"}),
        )
        .snapshot()
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn names(endpoints: &[&Endpoint]) -> String {
    let names: Vec<&str> = endpoints.iter().map(|it| &it.metadata.name[..]).collect();
    names.join(" ")
}

/// What a name is, in a word.
fn found(text: &str) -> String {
    found_in(&snapshot(), text)
}

fn found_in(snapshot: &Snapshot, text: &str) -> String {
    match find(snapshot, Some("shop"), &name(text)) {
        Found::Elsewhere => "elsewhere".to_owned(),
        Found::Nothing => "nothing".to_owned(),
        Found::Branch => "branch".to_owned(),
        Found::Service(service) => service.key().to_string(),
        Found::Endpoints(endpoints) => names(&endpoints),
        Found::Port(key, _, port) => format!("{key}:{}", port.name),
        Found::Ports(key, endpoints, port) => format!("{key}:{} {}", port.name, names(&endpoints)),
        Found::Address(key) => format!("address of {key}"),
    }
}

#[test]
fn services_are_found_by_their_whole_name_in_any_case() {
    assert_eq!(found("web.shop.mesh."), "shop/web");
    assert_eq!(found("WEB.Shop.MESH."), "shop/web");
    assert_eq!(found("web.shop.mesh"), "shop/web");
}

#[test]
fn short_names_are_of_the_mesh_where_there_is_such_a_service() {
    assert_eq!(found("web."), "shop/web");
    assert_eq!(found("web.shop."), "shop/web");
    assert_eq!(found("web.other."), "elsewhere");
    assert_eq!(found("api."), "elsewhere");
    assert_eq!(found("_http._tcp.web."), "shop/web:http");
    assert_eq!(found("_http._tcp.api."), "elsewhere");
    let snapshot = snapshot();
    let stranger = find(&snapshot, None, &name("web."));
    assert!(matches!(stranger, Found::Elsewhere), "{stranger:?}");
    let neighbour = find(&snapshot, Some("other"), &name("web."));
    assert!(matches!(neighbour, Found::Elsewhere), "{neighbour:?}");
}

#[test]
fn what_is_not_in_the_domain_is_not_there() {
    for absent in [
        "api.shop.mesh.",
        "web.other.mesh.",
        "other.mesh.",
        "a.web.shop.mesh.",
        "a.b.c.d.e.mesh.",
    ] {
        assert_eq!(found(absent), "nothing", "{absent}");
    }
    for branch in ["mesh.", "shop.mesh.", "_tcp.web.shop.mesh."] {
        assert_eq!(found(branch), "branch", "{branch}");
    }
}

#[test]
fn ports_are_found_by_name_and_transport() {
    assert_eq!(found("_http._tcp.web.shop.mesh."), "shop/web:http");
    assert_eq!(found("_stats._udp.web.shop.mesh."), "shop/web:stats");
    assert_eq!(found("_stats._tcp.web.shop.mesh."), "nothing");
    assert_eq!(found("_http._sctp.web.shop.mesh."), "nothing");
    assert_eq!(found("http._tcp.web.shop.mesh."), "nothing");
}

#[test]
fn virtual_addresses_have_names_and_others_are_somebody_elses() {
    assert_eq!(found("1.0.240.240.in-addr.arpa."), "address of shop/web");
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.2.0.0.4.2.0.0.0.d.f.ip6.arpa.";
    assert_eq!(found(v6), "address of shop/web");
    for other in [
        "9.0.240.240.in-addr.arpa.",
        "0.240.240.in-addr.arpa.",
        "x.in-addr.arpa.",
        "5.1.0.240.240.in-addr.arpa.",
        "arpa.",
    ] {
        assert_eq!(found(other), "elsewhere", "{other}");
    }
}

#[test]
fn other_names_are_somebody_elses() {
    for other in [
        ".",
        "example.com.",
        "web.shop.svc.cluster.local.",
        "mesh.com.",
    ] {
        assert_eq!(found(other), "elsewhere", "{other}");
    }
    let binary = Name::from_labels([&b"\xff\xfe"[..], b"mesh"]).unwrap();
    let snapshot = snapshot();
    let found = find(&snapshot, Some("shop"), &binary);
    assert!(matches!(found, Found::Elsewhere), "{found:?}");
}

#[test]
fn a_headless_service_is_its_endpoints_that_are_well() {
    assert_eq!(found("db.shop.mesh."), "db-1 db-2");
    assert_eq!(found("db."), "db-1 db-2");
    assert_eq!(found("_sql._tcp.db.shop.mesh."), "shop/db:sql db-1 db-2");
    assert_eq!(found("_tcp.db.shop.mesh."), "branch");
    assert_eq!(found("DB-3.db.shop.mesh."), "db-3");
    assert_eq!(found("db-4.b.db.shop.mesh."), "db-4.b");
    for nobody in ["db-5.db", "db-9.db", "web-1.web", "web-1.db"] {
        assert_eq!(found(&format!("{nobody}.shop.mesh.")), "nothing");
    }
}

#[test]
fn names_outside_the_mesh_mean_the_service_that_has_them() {
    assert_eq!(found("api.example.com."), "shop/pay");
    assert_eq!(found("API.Example.com"), "shop/pay");
    assert_eq!(found("pay."), "shop/pay");
    assert_eq!(found("x.api.example.com."), "elsewhere");
    assert_eq!(found("example.com."), "elsewhere");
}

#[test]
fn names_of_services_may_have_dots() {
    let snapshot = dotted();
    for (name, expected) in [
        ("web.v1.shop.mesh.", "shop/web.v1"),
        ("_http._tcp.web.v1.shop.mesh.", "shop/web.v1:http"),
        ("_tcp.web.v1.shop.mesh.", "branch"),
        ("web.v1.", "shop/web.v1"),
        ("web.v1.shop.", "shop/web.v1"),
        ("_http._tcp.web.v1.", "shop/web.v1:http"),
        ("a.b.db.v1.shop.mesh.", "a.b"),
        ("db-1.db.shop.mesh.", "shop/db-1.db"),
        ("db-2.db.shop.mesh.", "db-2"),
        ("v1.shop.mesh.", "branch"),
        ("1.shop.mesh.", "nothing"),
        ("web.v2.shop.mesh.", "nothing"),
        ("web.v2.", "elsewhere"),
    ] {
        assert_eq!(found_in(&snapshot, name), expected, "{name}");
    }
}

//! Names of every shape.

use std::sync::Arc;

use hickory_proto::rr::Name;
use serde_json::json;

use super::{Found, find};
use crate::dns::index::Index;
use crate::traffic::fixture::Fixture;

/// Services `shop/web` and `shop/dns`.
pub(in crate::dns) fn index() -> Index {
    let fixture = Fixture::default()
        .service("web", &json!({"addresses": ["240.240.0.1", "fd00:240:240::1"], "ports": [
            {"name": "http", "port": 80, "protocol": "http"}, {"name": "stats", "port": 80, "protocol": "udp"}]}))
        .service("dns", &json!({"addresses": ["240.240.0.2"], "ports": [{"name": "dns", "port": 53, "protocol": "udp"}]}));
    Index::new(Arc::new(fixture.snapshot()))
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// What a name is, in a word.
fn found(text: &str) -> String {
    match find(&index(), Some("shop"), &name(text)) {
        Found::Elsewhere => "elsewhere".to_owned(),
        Found::Nothing => "nothing".to_owned(),
        Found::Branch => "branch".to_owned(),
        Found::Service(service) => service.key().to_string(),
        Found::Port(key, _, port) => format!("{key}:{}", port.name),
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
    let index = index();
    let stranger = find(&index, None, &name("web."));
    assert!(matches!(stranger, Found::Elsewhere), "{stranger:?}");
    let neighbour = find(&index, Some("other"), &name("web."));
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
    let index = index();
    let found = find(&index, Some("shop"), &binary);
    assert!(matches!(found, Found::Elsewhere), "{found:?}");
}

//! Tests over tables in memory, filled by the mirror.

use std::sync::Arc;

use mesh_common::address::{Address, SocketAddress};
use mesh_common::endpoint::Endpoint;
use mesh_common::policy::{Authorization, PolicyKey};
use mesh_common::service::{Role, Service, ServiceKey, SlotKey, TCP};
use mesh_common::verdict::{self, Facts, Liveness};
use mesh_common::workload::{Caller, Workload};
use serde_json::json;

use super::decide;
use crate::ebpf::mirror::desired::desired;
use crate::ebpf::mirror::diff::diff;
use crate::ebpf::mirror::{Enrolled, Held, Place};
use crate::state::http_route::HttpRoute;
use crate::state::object::ObjectKey;
use crate::state::report::Explanation;
use crate::traffic::fixture::Fixture;

/// Maps in memory.
struct Picture {
    held: Held,
    liveness: Liveness,
}

impl verdict::Tables for Picture {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.held.services.get(key).copied()
    }

    fn slot(&self, key: &SlotKey) -> Option<u32> {
        self.held.slots.get(key).copied()
    }

    fn endpoint(&self, id: u32) -> Option<Endpoint> {
        self.held.endpoints.get(&id).copied()
    }

    fn identity(&self, address: &Address) -> Option<Workload> {
        self.held.identities.get(address).copied()
    }

    fn authorize(
        &self,
        key: &PolicyKey,
        caller: &Caller,
        source: &Address,
        port: u16,
    ) -> Authorization {
        let policy = self.held.policies.get(key);
        policy.map_or_else(Authorization::default, |policy| {
            policy.authorize(caller, source, port)
        })
    }

    fn open_connections(&self, _endpoint: u32) -> u64 {
        0
    }

    fn next(&self, _port_id: u32) -> u32 {
        0
    }

    fn random(&self) -> u32 {
        0
    }

    fn may_leave(&self, _workload: u32, _destination: &SocketAddress) -> bool {
        false
    }

    fn liveness(&self, _netns: u64, _family: u32, _role: Role) -> Liveness {
        self.liveness
    }
}

fn node() -> Fixture {
    Fixture::default()
        .workload("client", &json!({"netns": "/n", "addresses": ["10.0.0.2"], "serviceAccount": "client"}))
        .service("web", &json!({"addresses": ["240.240.0.1"], "ports": [{"name": "http", "port": 80, "protocol": "http"}]}))
        .service("db", &json!({"addresses": ["240.240.0.2"], "ports": [{"name": "main", "port": 6379, "protocol": "tcp"}]}))
        .endpoint("web-1", &["http"], &json!({"service": "web", "address": "10.0.0.3", "ports": {"http": 8080}}))
        .endpoint("db-1", &["main"], &json!({"service": "db", "address": "10.0.0.4"}))
        .endpoint("db-2", &["main"], &json!({"service": "db", "address": "fd00::4"}))
}

fn explain(fixture: &Fixture, liveness: Liveness, destination: &str) -> Explanation {
    let snapshot = fixture.snapshot();
    let mut enrolled = Enrolled::default();
    let client = ObjectKey::new("shop", "client");
    enrolled.places.insert(client, Place::Netns(7));
    let mut held = Held::default();
    for write in diff(&Held::default(), &desired(&snapshot, &enrolled)) {
        held.follow(&write);
    }
    let facts = Facts {
        workload: &held.workloads[&7].clone(),
        destination: destination.parse::<std::net::SocketAddr>().unwrap().into(),
        bound: Address::UNSPECIFIED,
        netns: 7,
        protocol: TCP,
        is_answer: false,
        endpoint: 0,
        is_bound_to_device: false,
    };
    decide(&Picture { held, liveness }, &snapshot, &facts)
}

#[test]
fn a_direct_service_shows_the_endpoints_of_the_sockets_family() {
    let said = explain(&node(), Liveness::Alive, "240.240.0.2:6379");
    assert_eq!(
        (said.verdict.as_str(), said.reason.as_str()),
        ("direct", "service")
    );
    assert_eq!(said.service.as_deref(), Some("shop/db"));
    assert_eq!(said.mode.as_deref(), Some("direct"));
    assert_eq!(said.endpoints, ["10.0.0.4:6379"]);
    assert!(said.policy.is_empty());
}

#[test]
fn a_proxied_service_is_balanced_in_the_kernel_while_the_agent_is_away() {
    let said = explain(&node(), Liveness::Alive, "240.240.0.1:80");
    assert_eq!(
        (said.verdict.as_str(), said.mode.as_deref()),
        ("proxy", Some("proxy"))
    );
    assert_eq!(said.endpoints, ["10.0.0.3:8080"]);
    let said = explain(&node(), Liveness::Absent, "240.240.0.1:80");
    assert_eq!(
        (said.verdict.as_str(), said.reason.as_str()),
        ("direct", "agent-absent")
    );
}

#[test]
fn a_refusal_names_service_and_policy() {
    let node = node().policy(
        "nobody",
        &json!({"target": {"kind": "Service", "name": "db"}, "action": "Allow"}),
    );
    let said = explain(&node, Liveness::Alive, "240.240.0.2:6379");
    assert_eq!(
        (said.verdict.as_str(), said.reason.as_str()),
        ("deny", "policy")
    );
    assert_eq!(said.service.as_deref(), Some("shop/db"));
    assert_eq!(said.policy, ["shop/nobody"]);
    let said = explain(&node, Liveness::Alive, "10.0.0.4:6379");
    assert_eq!((said.verdict.as_str(), said.policy.len()), ("deny", 1));
}

#[test]
fn a_policy_of_the_picked_endpoint_is_named_too() {
    let node = node()
        .workload("db", &json!({"netns": "/m", "addresses": ["10.0.0.4"]}))
        .policy(
            "closed",
            &json!({"target": {"kind": "Workload", "name": "db"}, "action": "Allow"}),
        );
    let said = explain(&node, Liveness::Alive, "240.240.0.2:6379");
    assert_eq!(
        (said.verdict.as_str(), said.reason.as_str()),
        ("deny", "policy")
    );
    assert_eq!(said.policy, ["shop/closed"]);
}

#[test]
fn endpoints_that_checks_have_found_critical_are_left_out_unless_most_are() {
    let health = |status: &str| {
        let health = json!({"status": status, "since": "2026-01-01T00:00:00Z", "output": ""});
        serde_json::from_value(health).unwrap()
    };
    let mut snapshot = node()
        .endpoint(
            "db-3",
            &["main"],
            &json!({"service": "db", "address": "10.0.0.5"}),
        )
        .snapshot();
    let mut found = |name: &str, status: &str| {
        let endpoint = snapshot.endpoints.get_mut(&ObjectKey::new("shop", name));
        Arc::make_mut(endpoint.unwrap()).status.health = Some(health(status));
        let node = Fixture::from(snapshot.clone());
        explain(&node, Liveness::Alive, "240.240.0.2:6379").endpoints
    };
    assert_eq!(found("db-1", "passing"), ["10.0.0.4:6379", "10.0.0.5:6379"]);
    assert_eq!(found("db-1", "critical"), ["10.0.0.5:6379"]);
    assert_eq!(
        found("db-2", "critical"),
        ["10.0.0.4:6379", "10.0.0.5:6379"]
    );
}

#[test]
fn where_routes_decide_the_proxy_knows_the_endpoints() {
    let target = json!({"kind": "Workload", "name": "web"});
    let node = node()
        .workload("web", &json!({"netns": "/m", "addresses": ["10.0.0.3"]}))
        .policy("closed", &json!({"target": target, "action": "Allow"}));
    let said = explain(&node, Liveness::Alive, "240.240.0.1:80");
    assert_eq!(said.endpoints, ["10.0.0.3:8080"]);
    assert_eq!(
        said.policy,
        ["shop/closed"],
        "the proxy refuses by what speaks of the endpoint"
    );
    let node = node.object::<HttpRoute>(
        "r",
        &json!({
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"backendRefs": [{"name": "db", "port": 6379}]}],
        }),
    );
    let said = explain(&node, Liveness::Alive, "240.240.0.1:80");
    assert_eq!((said.verdict.as_str(), said.endpoints.len()), ("proxy", 0));
    let said = explain(&node, Liveness::Absent, "240.240.0.1:80");
    assert_eq!(said.endpoints, ["10.0.0.3:8080"], "there is no proxy");
}

#[test]
fn what_is_no_service_passes() {
    let said = explain(&node(), Liveness::Alive, "192.0.2.1:443");
    assert_eq!(
        (said.verdict.as_str(), said.reason.as_str()),
        ("pass", "no-service")
    );
    assert_eq!((said.service, said.mode), (None, None));
}

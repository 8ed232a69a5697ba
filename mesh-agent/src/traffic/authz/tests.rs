//! Tests of the algebra: every sentence of it, and random cases against a slow reference.

use std::net::{IpAddr, SocketAddr};

use mesh_common::address::SocketAddress;
use mesh_common::policy::{Authorization, MAX_RULES, PolicyKey};
use mesh_common::service::{TCP, UDP};
use mesh_common::workload::Caller;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::{compile, policies_for};
use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::{Kind, ObjectKey};
use crate::state::policy::{Action, AuthorizationPolicySpec, PolicyMode, Source};
use crate::traffic::fixture::Fixture;

/// Who calls, in the words of the objects.
#[derive(Clone, Debug)]
struct Connection {
    namespace: &'static str,
    service_account: &'static str,
    source: IpAddr,
    destination: SocketAddr,
}

const NAMESPACES: [&str; 3] = ["shop", "bank", "lab"];
const ACCOUNTS: [&str; 3] = ["client", "admin", "robot"];

fn connection(service_account: &'static str, source: &str, destination: &str) -> Connection {
    Connection {
        namespace: "shop",
        service_account,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

/// Two services that share an endpoint, a workload on one of the endpoints, and every name but `ghost` numbered.
fn node() -> Fixture {
    let mut fixture = Fixture::default()
        .service(
            "web",
            &json!({"addresses": ["240.240.0.1", "fd00:f::1"], "ports": [
                {"name": "http", "port": 80}, {"name": "admin", "port": 81}, {"name": "dns", "port": 53, "protocol": "udp"}]}),
        )
        .service(
            "api",
            &json!({"addresses": ["240.240.0.2"], "ports": [{"name": "http", "port": 80}]}),
        )
        .endpoint(
            "web-1",
            &["http", "admin", "dns"],
            &json!({"service": "web", "address": "10.0.0.3", "ports": {"http": 8080}}),
        )
        .endpoint(
            "api-1",
            &["http"],
            &json!({"service": "api", "address": "10.0.0.3", "ports": {"http": 8080}}),
        )
        .endpoint(
            "web-2",
            &["http", "admin", "dns"],
            &json!({"service": "web", "address": "fd00::3", "ports": {"http": 8080, "admin": 8080}}),
        )
        .workload(
            "server",
            &json!({"netns": "/run/netns/server", "addresses": ["10.0.0.3", "fd00::3"], "serviceAccount": "server"}),
        );
    for name in NAMESPACES {
        fixture = fixture.name(Subject::Namespace(name.to_owned()));
    }
    for name in ACCOUNTS {
        fixture = fixture.name(Subject::ServiceAccount(name.to_owned()));
    }
    fixture
}

fn compiled(snapshot: &Snapshot, connection: &Connection) -> Authorization {
    let caller = Caller {
        namespace: snapshot
            .ids
            .number(&Subject::Namespace(connection.namespace.to_owned())),
        service_account: snapshot.ids.number(&Subject::ServiceAccount(
            connection.service_account.to_owned(),
        )),
    };
    compile(snapshot).authorize(
        &caller,
        &connection.source.into(),
        connection.destination.into(),
    )
}

/// The algebra, from its description, over the objects.
fn reference(snapshot: &Snapshot, connection: &Connection) -> Authorization {
    let mut services = Vec::new();
    for (key, service) in &snapshot.services {
        for port in service.spec.ports.iter().filter(|port| port.name != "dns") {
            let by_service = service
                .spec
                .addresses
                .iter()
                .any(|address| SocketAddr::new(*address, port.port) == connection.destination);
            let by_endpoint = snapshot.endpoints.values().any(|endpoint| {
                let number = endpoint.spec.ports.get(&port.name).unwrap_or(&port.port);
                endpoint.metadata.namespace == key.namespace
                    && endpoint.spec.service == key.name
                    && SocketAddr::new(endpoint.spec.address, *number) == connection.destination
            });
            if by_service || by_endpoint {
                services.push((Kind::Service, key.clone(), port.port));
            }
        }
    }
    let workloads = snapshot
        .workloads
        .iter()
        .filter(|(_, workload)| {
            workload
                .spec
                .addresses
                .contains(&connection.destination.ip())
        })
        .map(|(key, _)| (Kind::Workload, key.clone(), connection.destination.port()))
        .collect();
    let groups: [Vec<(Kind, ObjectKey, u16)>; 2] = [services, workloads];
    let refused = |audit: bool| {
        groups
            .iter()
            .any(|group| group_refuses(snapshot, connection, group, audit))
    };
    let is_denied = refused(false);
    Authorization {
        is_denied,
        is_audited: !is_denied && refused(true),
    }
}

fn group_refuses(
    snapshot: &Snapshot,
    connection: &Connection,
    group: &[(Kind, ObjectKey, u16)],
    audit: bool,
) -> bool {
    let (mut has_allow, mut allowed, mut denied) = (false, false, false);
    for (kind, key, port) in group {
        for (policy_key, policy) in &snapshot.policies {
            let spec = &policy.spec;
            if spec.target.kind != *kind
                || spec.target.name != key.name
                || policy_key.namespace != key.namespace
                || (spec.mode == PolicyMode::Audit && !audit)
            {
                continue;
            }
            let matches = policy_matches(spec, connection, *port);
            match spec.action {
                Action::Deny => denied |= matches,
                Action::Allow => {
                    has_allow = true;
                    allowed |= matches;
                }
            }
        }
    }
    denied || (has_allow && !allowed)
}

fn policy_matches(spec: &AuthorizationPolicySpec, connection: &Connection, port: u16) -> bool {
    spec.rules.iter().any(|rule| {
        let from = rule.from.is_empty()
            || rule
                .from
                .iter()
                .any(|source| source_matches(source, connection));
        let to = rule.to.is_empty()
            || rule
                .to
                .iter()
                .any(|to| to.ports.is_empty() || to.ports.contains(&port));
        from && to
    })
}

fn source_matches(source: &Source, connection: &Connection) -> bool {
    let one_of =
        |list: &[String], word: &str| list.is_empty() || list.iter().any(|item| item == word);
    one_of(&source.namespaces, connection.namespace)
        && one_of(&source.service_accounts, connection.service_account)
        && (source.cidrs.is_empty()
            || source
                .cidrs
                .iter()
                .any(|cidr| cidr.contains(&connection.source)))
}

#[track_caller]
fn check(fixture: &Fixture, connection: &Connection, denied: bool, audited: bool) {
    let expected = Authorization {
        is_denied: denied,
        is_audited: audited,
    };
    let snapshot = fixture.snapshot();
    assert_eq!(compiled(&snapshot, connection), expected, "{connection:?}");
    assert_eq!(
        reference(&snapshot, connection),
        expected,
        "the reference, {connection:?}"
    );
}

fn allow_client(ports: &[u16]) -> Value {
    let to = written([("ports", json!(ports))]);
    json!({"target": {"kind": "Service", "name": "web"}, "action": "Allow", "rules": [
        {"from": [{"serviceAccounts": ["client"]}], "to": [to]}]})
}

#[test]
fn without_policy_everybody_is_admitted() {
    check(
        &node(),
        &connection("robot", "10.9.9.9", "240.240.0.1:80"),
        false,
        false,
    );
}

#[test]
fn a_target_with_an_allow_policy_refuses_the_rest() {
    let node = node().policy("p", &allow_client(&[80]));
    check(
        &node,
        &connection("client", "10.0.0.2", "240.240.0.1:80"),
        false,
        false,
    );
    check(
        &node,
        &connection("robot", "10.0.0.2", "240.240.0.1:80"),
        true,
        false,
    );
}

#[test]
fn an_allow_policy_refuses_on_the_ports_that_it_does_not_name() {
    let node = node().policy("p", &allow_client(&[80]));
    check(
        &node,
        &connection("client", "10.0.0.2", "240.240.0.1:81"),
        true,
        false,
    );
}

#[test]
fn dialling_the_endpoint_does_not_go_around_the_policy() {
    let node = node().policy("p", &allow_client(&[80]));
    check(
        &node,
        &connection("robot", "10.0.0.2", "10.0.0.3:8080"),
        true,
        false,
    );
    check(
        &node,
        &connection("client", "10.0.0.2", "10.0.0.3:8080"),
        false,
        false,
    );
    check(
        &node,
        &connection("robot", "10.0.0.2", "10.0.0.3:22"),
        false,
        false,
    );
}

#[test]
fn deny_beats_allow() {
    let node = node().policy("p", &allow_client(&[])).policy(
        "q",
        &json!({"target": {"kind": "Service", "name": "web"}, "action": "Deny", "rules": [
            {"from": [{"cidrs": ["10.0.0.0/30"]}]}]}),
    );
    check(
        &node,
        &connection("client", "10.0.0.2", "240.240.0.1:80"),
        true,
        false,
    );
    check(
        &node,
        &connection("client", "10.0.0.4", "240.240.0.1:80"),
        false,
        false,
    );
}

#[test]
fn allow_without_rules_admits_nobody_and_deny_without_rules_refuses_nobody() {
    let target = json!({"kind": "Workload", "name": "server"});
    let closed = node().policy("p", &json!({"target": target, "action": "Allow"}));
    check(
        &closed,
        &connection("client", "10.0.0.2", "10.0.0.3:22"),
        true,
        false,
    );
    let open = node().policy("p", &json!({"target": target, "action": "Deny"}));
    check(
        &open,
        &connection("client", "10.0.0.2", "10.0.0.3:22"),
        false,
        false,
    );
    assert!(compile(&open.snapshot()).policies.is_empty());
}

#[test]
fn fields_of_one_item_are_anded_and_items_are_ored() {
    let node = node().policy("p", &json!({"target": {"kind": "Service", "name": "web"}, "action": "Allow", "rules": [
        {"from": [{"serviceAccounts": ["client"], "cidrs": ["10.0.0.2/32"]}, {"serviceAccounts": ["admin", "robot"]}]}]}));
    check(
        &node,
        &connection("client", "10.0.0.2", "240.240.0.1:80"),
        false,
        false,
    );
    check(
        &node,
        &connection("client", "10.0.0.9", "240.240.0.1:80"),
        true,
        false,
    );
    check(
        &node,
        &connection("robot", "10.0.0.9", "240.240.0.1:80"),
        false,
        false,
    );
}

#[test]
fn a_name_that_nobody_bears_matches_nobody() {
    let from = json!([{"from": [{"namespaces": ["ghost"]}]}]);
    let target = json!({"kind": "Service", "name": "web"});
    let allow = node().policy(
        "p",
        &json!({"target": target, "action": "Allow", "rules": from}),
    );
    check(
        &allow,
        &connection("client", "10.0.0.2", "240.240.0.1:80"),
        true,
        false,
    );
    let deny = node().policy(
        "p",
        &json!({"target": target, "action": "Deny", "rules": from}),
    );
    check(
        &deny,
        &connection("client", "10.0.0.2", "240.240.0.1:80"),
        false,
        false,
    );
}

#[test]
fn an_audited_policy_only_counts() {
    let node = node()
        .policy("p", &json!({"target": {"kind": "Service", "name": "web"}, "action": "Allow", "mode": "Audit", "rules": [
            {"from": [{"serviceAccounts": ["client"]}]}]}));
    check(
        &node,
        &connection("robot", "10.0.0.2", "240.240.0.1:80"),
        false,
        true,
    );
    check(
        &node,
        &connection("client", "10.0.0.2", "240.240.0.1:80"),
        false,
        false,
    );
}

#[test]
fn every_ipv6_caller_is_not_every_caller() {
    let node = node().policy(
        "p",
        &json!({"target": {"kind": "Service", "name": "web"}, "action": "Allow", "rules": [
        {"from": [{"cidrs": ["::/0"]}]}]}),
    );
    check(
        &node,
        &connection("client", "fd00::9", "[fd00:f::1]:80"),
        false,
        false,
    );
    check(
        &node,
        &connection("client", "10.0.0.2", "240.240.0.1:80"),
        true,
        false,
    );
}

#[test]
fn ports_of_a_workload_are_those_it_listens_on() {
    let node = node().policy(
        "p",
        &json!({"target": {"kind": "Workload", "name": "server"}, "action": "Deny", "rules": [
        {"to": [{"ports": [22, 23]}]}]}),
    );
    check(
        &node,
        &connection("client", "10.0.0.2", "10.0.0.3:22"),
        true,
        false,
    );
    check(
        &node,
        &connection("client", "10.0.0.2", "10.0.0.3:24"),
        false,
        false,
    );
}

#[test]
fn too_many_rules_close_the_key_and_name_the_policies() {
    let cidrs: Vec<String> = (0..=MAX_RULES).map(|n| format!("10.1.{n}.0/24")).collect();
    let spec = |mode: &str| {
        json!({"target": {"kind": "Workload", "name": "server"}, "action": "Deny", "mode": mode,
            "rules": [{"from": [{"cidrs": cidrs}]}]})
    };
    let closed = node().policy("p", &spec("Enforce")).snapshot();
    let robot = connection("robot", "10.9.9.9", "10.0.0.3:22");
    assert!(compiled(&closed, &robot).is_denied);
    assert_eq!(
        compile(&closed).too_many(),
        [ObjectKey::new("shop", "p")].into()
    );

    let audited = node().policy("q", &spec("Audit")).snapshot();
    assert!(!compiled(&audited, &robot).is_denied);
    assert_eq!(
        compile(&audited).too_many(),
        [ObjectKey::new("shop", "q")].into()
    );
}

#[test]
fn policies_of_a_destination_are_found_by_service_endpoint_and_workload() {
    let snapshot = node()
        .policy("p", &allow_client(&[80]))
        .policy(
            "q",
            &json!({"target": {"kind": "Workload", "name": "server"}, "action": "Deny"}),
        )
        .snapshot();
    let of = |text: &str| {
        let address: SocketAddr = text.parse().unwrap();
        Vec::from_iter(policies_for(&snapshot, [SocketAddress::from(address)], TCP))
            .into_iter()
            .map(|key| key.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(of("240.240.0.1:80"), ["p"]);
    assert_eq!(of("10.0.0.3:8080"), ["p", "q"]);
    assert_eq!(of("10.0.0.3:22"), ["q"]);
    assert!(of("10.0.0.4:22").is_empty());
}

#[test]
fn a_policy_holds_for_the_protocol_of_each_port() {
    let policies = compile(&node().policy("p", &allow_client(&[])).snapshot()).policies;
    let holds = |text: &str, protocol| {
        let address: SocketAddr = text.parse().unwrap();
        policies.contains_key(&PolicyKey::port(&address.into(), protocol))
    };
    assert!(holds("240.240.0.1:53", UDP) && holds("10.0.0.3:53", UDP));
    assert!(!holds("240.240.0.1:53", TCP) && !holds("240.240.0.1:80", UDP));
}

#[test]
fn compiled_rules_agree_with_the_objects_on_random_pairs() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut refused = 0;
    for _ in 0..2_000 {
        let mut fixture = node();
        for name in ["a", "b", "c", "d"]
            .into_iter()
            .take(rng.random_range(1..5))
        {
            fixture = fixture.policy(name, &random_policy(&mut rng));
        }
        let snapshot = fixture.snapshot();
        assert!(compile(&snapshot).too_many().is_empty());
        for _ in 0..5 {
            let connection = random_connection(&mut rng);
            let expected = reference(&snapshot, &connection);
            refused += usize::from(expected.is_denied);
            assert_eq!(
                compiled(&snapshot, &connection),
                expected,
                "{connection:?} {:?}",
                snapshot.policies
            );
        }
    }
    assert!(
        (2_000..8_000).contains(&refused),
        "one-sided cases: {refused}"
    );
}

fn pick<T: Clone>(rng: &mut StdRng, items: &[T]) -> T {
    items[rng.random_range(0..items.len())].clone()
}

fn some<T: Clone>(rng: &mut StdRng, items: &[T], most: usize) -> Vec<T> {
    let count = rng.random_range(0..=most);
    (0..count).map(|_| pick(rng, items)).collect()
}

fn random_policy(rng: &mut StdRng) -> Value {
    let target = pick(
        rng,
        &[
            json!({"kind": "Service", "name": "web"}),
            json!({"kind": "Service", "name": "api"}),
            json!({"kind": "Workload", "name": "server"}),
        ],
    );
    let rules: Vec<Value> = (0..rng.random_range(0..3))
        .map(|_| random_rule(rng))
        .collect();
    json!({
        "target": target,
        "action": pick(rng, &["Allow", "Deny"]),
        "mode": pick(rng, &["Enforce", "Enforce", "Audit"]),
        "rules": rules,
    })
}

fn random_rule(rng: &mut StdRng) -> Value {
    let cidrs = [
        "10.0.0.0/8",
        "10.0.0.2/32",
        "10.0.0.7/31",
        "0.0.0.0/0",
        "::/0",
        "fd00::/64",
        "fd00::2/127",
    ];
    let namespaces = ["shop", "bank", "ghost"];
    let from: Vec<Value> = (0..rng.random_range(0..3))
        .map(|_| {
            written([
                ("namespaces", json!(some(rng, &namespaces, 1))),
                ("serviceAccounts", json!(some(rng, &ACCOUNTS, 2))),
                ("cidrs", json!(some(rng, &cidrs, 2))),
            ])
        })
        .collect();
    let to: Vec<Value> = (0..rng.random_range(0..3))
        .map(|_| written([("ports", json!(some(rng, &[80, 81, 8080], 2)))]))
        .collect();
    written([("from", json!(from)), ("to", json!(to))])
}

/// Fields without the empty lists, which are refused.
fn written<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let is_written = |it: &(&str, Value)| it.1 != json!([]);
    let fields = fields.into_iter().filter(is_written);
    fields
        .map(|(name, items)| (name.to_owned(), items))
        .collect()
}

fn random_connection(rng: &mut StdRng) -> Connection {
    let destinations = [
        "240.240.0.1:80",
        "240.240.0.1:81",
        "240.240.0.2:80",
        "[fd00:f::1]:80",
        "10.0.0.3:8080",
        "10.0.0.3:80",
        "10.0.0.3:81",
        "[fd00::3]:8080",
        "10.0.0.9:80",
    ];
    let sources = ["10.0.0.2", "10.0.0.6", "192.168.1.1", "fd00::2", "fe80::1"];
    Connection {
        namespace: pick(rng, &NAMESPACES),
        service_account: pick(rng, &ACCOUNTS),
        source: pick(rng, &sources).parse().unwrap(),
        destination: pick(rng, &destinations).parse().unwrap(),
    }
}

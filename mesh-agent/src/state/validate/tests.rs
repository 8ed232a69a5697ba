//! What the registry refuses, and the field it names.

mod routes;
mod traffic_policies;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::state::object::Kind;
use crate::state::{Change, Store, decode};

fn read(kind: Kind, name: &str, spec: &Value) -> Manifest {
    let key = ObjectKey::new("shop", name);
    decode::manifest(kind, &key, json!({ "spec": spec })).expect("it can be decoded")
}

/// A registry with one service, one endpoint and one workload.
fn store() -> Store {
    let store = Store::in_memory();
    let put = |kind, name, spec| {
        store
            .apply(Change::Put(read(kind, name, &spec)))
            .expect("it is accepted");
    };
    put(
        Kind::Service,
        "web",
        json!({"addresses": ["10.1.0.1"], "ports": [{"name": "http", "port": 80}]}),
    );
    put(
        Kind::Endpoint,
        "web-1",
        json!({"service": "web", "address": "10.0.0.3"}),
    );
    put(
        Kind::Workload,
        "client",
        json!({"netns": "/run/netns/a", "addresses": ["10.0.0.2"]}),
    );
    store
}

fn field(kind: Kind, name: &str, spec: &Value) -> Option<String> {
    let manifest = read(kind, name, spec);
    match check(&manifest, &store().snapshot()) {
        Err(Refusal::Invalid { field, .. }) => Some(field),
        Err(other) => panic!("another refusal: {other:?}"),
        Ok(()) => None,
    }
}

#[test]
fn annotations_are_bounded_together() {
    let field = |size: usize| {
        let annotations = json!({"a": "x".repeat(size), "b": "x".repeat(size)});
        let document = json!({"metadata": {"annotations": annotations},
            "spec": {"service": "web", "address": "10.0.0.4"}});
        let key = ObjectKey::new("shop", "web-2");
        let manifest = decode::manifest(Kind::Endpoint, &key, document).unwrap();
        match check(&manifest, &store().snapshot()) {
            Err(Refusal::Invalid { field, .. }) => Some(field),
            _ => None,
        }
    };
    assert_eq!(field(100 << 10), None);
    assert_eq!(field(128 << 10).as_deref(), Some("metadata.annotations"));
}

fn refused(kind: Kind, spec: Value, expected: &str) {
    assert_eq!(
        field(kind, "new", &spec).as_deref(),
        Some(expected),
        "{spec}"
    );
}

fn accepted(kind: Kind, spec: Value) {
    assert_eq!(field(kind, "new", &spec), None, "{spec}");
}

#[test]
fn service_has_usable_ports_and_addresses_of_its_own() {
    let kind = Kind::Service;
    let port = |name: &str, port: u16, protocol: &str| json!({"name": name, "port": port, "protocol": protocol});
    let ports = |ports: Value| json!({ "ports": ports });
    refused(kind, ports(json!([])), "spec.ports");
    let many: Vec<_> = (1..=65)
        .map(|it| port(&format!("p{it}"), it, "tcp"))
        .collect();
    refused(kind, ports(json!(many)), "spec.ports");
    accepted(kind, ports(json!(many[..64])));
    let one = |name: &str, number: u16| ports(json!([port(name, number, "tcp")]));
    refused(kind, one("", 1), "spec.ports[0].name");
    refused(kind, one("Upper", 1), "spec.ports[0].name");
    refused(kind, one("-a", 1), "spec.ports[0].name");
    refused(kind, one(&"a".repeat(64), 1), "spec.ports[0].name");
    refused(kind, one("a", 0), "spec.ports[0].port");
    let two = |first, second| ports(json!([first, second]));
    let name_twice = two(port("a", 1, "tcp"), port("a", 2, "tcp"));
    refused(kind, name_twice, "spec.ports[1].name");
    let port_twice = two(port("a", 1, "tcp"), port("b", 1, "http"));
    refused(kind, port_twice, "spec.ports[1].port");
    accepted(kind, two(port("a", 53, "tcp"), port("b", 53, "udp")));

    let addresses =
        |addresses: Value| json!({"addresses": addresses, "ports": [{"name": "a", "port": 1}]});
    for wrong in [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:10.0.0.1",
        "fe80::1",
    ] {
        refused(kind, addresses(json!([wrong])), "spec.addresses[0]");
    }
    let twice = addresses(json!(["10.5.0.1", "10.5.0.1"]));
    refused(kind, twice, "spec.addresses[1]");
    for taken in ["10.1.0.1", "10.0.0.3", "10.0.0.2"] {
        refused(
            kind,
            addresses(json!(["fd00::7", taken])),
            "spec.addresses[1]",
        );
    }
    accepted(kind, addresses(json!(["10.5.0.1", "fd00::7"])));
    let same = addresses(json!(["10.1.0.1"]));
    assert_eq!(field(kind, "web", &same), None, "its own address");
}

#[test]
fn endpoint_has_an_address_that_is_no_service() {
    let kind = Kind::Endpoint;
    refused(
        kind,
        json!({"service": "", "address": "10.0.0.9"}),
        "spec.service",
    );
    for wrong in ["127.0.0.1", "10.1.0.1", "0.0.0.0"] {
        refused(
            kind,
            json!({"service": "api", "address": wrong}),
            "spec.address",
        );
    }
    let nowhere = read(kind, "new", &json!({"service": "api"}));
    let needed = "an address that others can dial, or a hostname, is needed";
    let expected = Refusal::invalid("spec.address", needed);
    assert_eq!(
        check(&nowhere, &store().snapshot())
            .unwrap_err()
            .to_string(),
        expected.to_string()
    );
    // What is outside the mesh may be dialled by its own address.
    accepted(kind, json!({"service": "web", "address": "10.1.0.1"}));
    let with = |name: &str, value: Value| {
        let mut spec = json!({"service": "web", "address": "10.0.0.9"});
        spec[name] = value;
        spec
    };
    refused(kind, with("weight", json!(1001)), "spec.weight");
    refused(kind, with("ports", json!({"http": 0})), "spec.ports.http");
    refused(kind, with("ports", json!({"No": 1})), "spec.ports.No");
    refused(
        kind,
        with("version", json!("v".repeat(254))),
        "spec.version",
    );
    refused(
        kind,
        with("locality", json!({"region": "eu", "zone": ""})),
        "spec.locality.zone",
    );
    accepted(kind, with("locality", json!({"zone": "a", "node": "n"})));
    accepted(kind, with("ports", json!({"later": 8080})));
    accepted(
        kind,
        json!({"service": "later", "address": "10.0.0.3", "weight": 0}),
    );
}

#[test]
fn workload_is_recognised_in_exactly_one_way_and_alone() {
    let kind = Kind::Workload;
    refused(kind, json!({}), "spec.netns");
    refused(kind, json!({"netns": "/a", "cgroup": "/b"}), "spec.cgroup");
    refused(kind, json!({"netns": "run/netns/b"}), "spec.netns");
    refused(kind, json!({"cgroup": "/sys/../etc"}), "spec.cgroup");
    refused(kind, json!({"cgroup": ""}), "spec.cgroup");
    refused(kind, json!({"netns": "/run/netns/a"}), "spec.netns");
    let with = |name: &str, value: Value| {
        let mut spec = json!({"netns": "/run/netns/b"});
        spec[name] = value;
        spec
    };
    refused(
        kind,
        with("serviceAccount", json!("No")),
        "spec.serviceAccount",
    );
    refused(
        kind,
        with("addresses", json!(["127.0.0.1"])),
        "spec.addresses[0]",
    );
    refused(
        kind,
        with("addresses", json!(["10.0.0.2"])),
        "spec.addresses[0]",
    );
    refused(
        kind,
        with("addresses", json!(["10.1.0.1"])),
        "spec.addresses[0]",
    );
    // A server of the node is an endpoint and a workload.
    accepted(kind, with("addresses", json!(["10.0.0.3"])));
    accepted(kind, json!({"cgroup": "/sys/fs/cgroup/a"}));
}

#[test]
fn policy_fits_the_kernel_and_names_what_can_be_named() {
    let kind = Kind::AuthorizationPolicy;
    let with = |rules: Value| json!({"target": {"kind": "Service", "name": "later"}, "action": "Allow", "rules": rules});
    let target = json!({"target": {"kind": "Endpoint", "name": "a"}, "action": "Deny"});
    refused(kind, target, "spec.target.kind");
    let from = |source: Value| with(json!([{}, {"from": [source]}]));
    let field = "spec.rules[1].from[0]";
    refused(
        kind,
        from(json!({"namespaces": ["No"]})),
        &format!("{field}.namespaces[0]"),
    );
    refused(
        kind,
        from(json!({"serviceAccounts": ["a", ""]})),
        &format!("{field}.serviceAccounts[1]"),
    );
    let to = with(json!([{"to": [{"ports": [80, 0]}]}]));
    refused(kind, to, "spec.rules[0].to[0].ports[1]");
    accepted(kind, from(json!({})));

    let names = |count: usize| -> Vec<String> { (0..count).map(|it| format!("n{it}")).collect() };
    let grid = |namespaces, ports: u16| {
        let ports: Vec<u16> = (1..=ports).collect();
        with(json!([{"from": [{"namespaces": names(namespaces)}], "to": [{"ports": ports}]}]))
    };
    accepted(kind, grid(8, 8));
    refused(kind, grid(13, 5), "spec.rules");
    accepted(kind, with(json!([])));
}

#[test]
fn expansion_counts_combinations() {
    let size = |rules: Value| {
        let spec =
            json!({"target": {"kind": "Service", "name": "a"}, "action": "Allow", "rules": rules});
        match read(Kind::AuthorizationPolicy, "p", &spec) {
            Manifest::AuthorizationPolicy(policy) => expansion(&policy.spec),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(size(json!([])), 1);
    assert_eq!(size(json!([{}, {}])), 2);
    let sources = json!([{"namespaces": ["a", "b"], "cidrs": ["10.0.0.0/8"]}, {}]);
    assert_eq!(
        size(json!([{"from": sources, "to": [{"ports": [1, 2]}]}])),
        6
    );
}

#[test]
fn names_and_labels_are_those_of_dns_and_kubernetes() {
    let check_metadata = |name: &str, namespace: &str, label: (&str, &str)| {
        let mut it = Metadata {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ..Metadata::default()
        };
        it.labels.insert(label.0.to_owned(), label.1.to_owned());
        match metadata(&it) {
            Err(Refusal::Invalid { field, .. }) => field,
            _ => String::new(),
        }
    };
    let long = "a".repeat(64);
    let team = ("mesh.dev/team", "a_B.1");
    assert_eq!(check_metadata("web.v1", "shop", team), "");
    for wrong in ["", "Web", "a..b", "a.", "web_1", "a/b", &long] {
        assert_eq!(check_metadata(wrong, "shop", team), "metadata.name");
    }
    for wrong in ["", "shop.a", "Shop", &long] {
        assert_eq!(check_metadata("web", wrong, team), "metadata.namespace");
    }
    for (key, value) in [
        ("", "a"),
        ("a/b/c", "a"),
        ("team", "a b"),
        ("team", long.as_str()),
    ] {
        let expected = format!("metadata.labels.{key}");
        assert_eq!(check_metadata("web", "shop", (key, value)), expected);
    }
}

/// Any JSON, with names that objects have among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let keys = "(spec|metadata|name|ports|port|addresses|rules|from|to|target|kind|netns|parentRefs|matches|filters|type|\
         path|value|backendRefs|weight|retries|on|loadBalancing|algorithm|hashOn|healthCheck|interval|rateLimits|by|\
         [a-z]{0,3})";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "(web|tcp|10\\.0\\.0\\.1/?8?|/run|Service|HTTPRoute|PathPrefix|URLRewrite|Maglev|5xx|[0-9]{1,6}m?s|.{0,4})"
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..6)
                .prop_map(|it| Value::Object(it.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_in_a_route_or_policy_is_taken_or_refused(text in "\\PC{0,40}", bytes in "[ -~]{0,24}", number in any::<u32>()) {
        let snapshot = Snapshot::default();
        let parent = json!({"group": "", "kind": "Service", "name": "web", "sectionName": text});
        for text in [&text, &bytes] {
            for regular in ["Exact", "PathPrefix", "RegularExpression"] {
                let named = if regular == "PathPrefix" { "Exact" } else { regular };
                let backend = json!({"name": "web", "port": 80, "weight": number});
                let matches = json!([{"path": {"type": regular, "value": text}, "method": text,
                    "headers": [{"name": text, "value": text, "type": named}]}]);
                let filters = json!([
                    {"type": "URLRewrite", "urlRewrite": {"hostname": text, "path": {"type": "ReplaceFullPath", "replaceFullPath": text}}},
                    {"type": "CORS", "cors": {"allowOrigins": [text], "maxAge": number}}]);
                let route = json!({"parentRefs": [parent], "hostnames": [text],
                    "rules": [{"name": text, "matches": matches, "filters": filters, "backendRefs": [backend]}]});
                let policy = json!({"target": {"kind": "Service", "name": "web"}, "hedging": {"after": text},
                    "retries": {"on": [text], "attempts": number}, "rateLimits": [{"requests": number, "by": [text]}],
                    "healthCheck": {"http": {"path": text, "host": text, "statuses": [text]}}});
                for (kind, spec) in [(Kind::HttpRoute, route), (Kind::TrafficPolicy, policy)] {
                    let key = ObjectKey::new("shop", "web");
                    if let Ok(manifest) = decode::manifest(kind, &key, json!({ "spec": spec })) {
                        drop(check(&manifest, &snapshot));
                    }
                }
            }
        }
    }

    #[test]
    fn any_document_is_read_or_refused(spec in any_json(), document in any_json()) {
        let snapshot = Snapshot::default();
        for kind in Kind::ALL {
            for document in [json!({ "spec": spec }), document.clone()] {
                let key = ObjectKey::new("shop", "web");
                if let Ok(manifest) = decode::manifest(kind, &key, document) {
                    drop(check(&manifest, &snapshot));
                }
            }
        }
    }
}

//! Objects of the registry, as tests write them. All are in one namespace.

use std::net::IpAddr;

use serde_json::{Value, json};

/// The namespace of every object of the tests.
pub const NAMESPACE: &str = "shop";

/// An object of any kind.
#[must_use]
pub fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "mesh.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": spec,
    })
}

/// A service with one port.
#[must_use]
pub fn service(
    name: &str,
    addresses: &[&str],
    port_name: &str,
    port: u16,
    protocol: &str,
) -> Value {
    let ports = json!([{ "name": port_name, "port": port, "protocol": protocol }]);
    object(
        "Service",
        name,
        &json!({ "addresses": addresses, "ports": ports }),
    )
}

/// An endpoint of a service with one port.
#[must_use]
pub fn endpoint(name: &str, service: &str, address: IpAddr, port_name: &str, port: u16) -> Value {
    object(
        "Endpoint",
        name,
        &json!({ "service": service, "address": address, "ports": { port_name: port } }),
    )
}

/// A policy for a service or a workload, with one rule.
#[must_use]
pub fn policy(name: &str, action: &str, target: (&str, &str), from: &Value) -> Value {
    let (kind, target) = target;
    object(
        "AuthorizationPolicy",
        name,
        &json!({
            "target": { "kind": kind, "name": target },
            "action": action,
            "rules": [{ "from": [from] }],
        }),
    )
}

/// The object with more fields in its spec.
#[must_use]
#[track_caller]
pub fn with(mut object: Value, fields: &Value) -> Value {
    let spec = object["spec"].as_object_mut().expect("a spec");
    for (name, value) in fields.as_object().expect("fields") {
        spec.insert(name.clone(), value.clone());
    }
    object
}

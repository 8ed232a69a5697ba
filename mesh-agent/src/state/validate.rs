//! What an object must be like to enter the registry; every refusal names the field.
//!
//! Pure: it sees the object and the snapshot that it would change. Unknown fields are refused before, by
//! [`decode`](super::decode).

mod address;
mod bound;
mod cors;
mod filter;
mod grpc_route;
mod http;
mod http_route;
mod life;
mod name;
mod outside;
mod policy;
mod reference_grant;
mod route;
mod stream_route;
mod traffic_policy;

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::endpoint::{EndpointSpec, Locality};
use super::object::{Kind, Metadata, ObjectKey};
use super::service::{Protocol, ServiceSpec};
use super::workload::WorkloadSpec;
use super::{Manifest, Refusal, Snapshot};

pub use policy::expansion;

/// Most ports of a service, and of an endpoint.
pub const MAX_PORTS: usize = 64;
/// Most addresses of a service, and of a workload.
pub const MAX_ADDRESSES: usize = 16;
/// Largest weight of an endpoint.
pub const MAX_WEIGHT: u32 = 1000;
/// Longest name of a region, zone or node.
pub const MAX_LOCALITY: usize = 253;
/// Longest path that the kernel takes.
const MAX_PATH: usize = 4095;
/// Bytes of all annotations of an object, keys and values, as in Kubernetes.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// Longest `version`.
const MAX_VERSION: usize = 253;

/// Checks an object against the rules of its kind and against the others in `snapshot`.
pub fn check(manifest: &Manifest, snapshot: &Snapshot) -> Result<(), Refusal> {
    metadata(manifest.metadata())?;
    let key = manifest.key();
    match manifest {
        Manifest::Service(object) => service(&object.spec, &key, snapshot),
        Manifest::Endpoint(object) => endpoint(&object.spec, &key, snapshot),
        Manifest::Workload(object) => workload(&object.spec, &key, snapshot),
        Manifest::AuthorizationPolicy(object) => policy::check(&object.spec),
        Manifest::HttpRoute(object) => http_route::check(&object.spec),
        Manifest::GrpcRoute(object) => grpc_route::check(&object.spec),
        Manifest::TcpRoute(object) => stream_route::tcp(&object.spec),
        Manifest::TlsRoute(object) => stream_route::tls(&object.spec),
        Manifest::ReferenceGrant(object) => reference_grant::check(&object.spec),
        Manifest::TrafficPolicy(object) => traffic_policy::check(object),
    }
}

fn metadata(metadata: &Metadata) -> Result<(), Refusal> {
    name::subdomain("metadata.name", &metadata.name)?;
    name::label("metadata.namespace", &metadata.namespace)?;
    for (key, value) in &metadata.labels {
        let field = format!("metadata.labels.{key}");
        name::label_key(&field, key)?;
        name::label_value(&field, value)?;
    }
    for key in metadata.annotations.keys() {
        name::label_key(&format!("metadata.annotations.{key}"), key)?;
    }
    let annotations = metadata.annotations.iter();
    let bytes: usize = annotations.map(|(key, it)| key.len() + it.len()).sum();
    if bytes > MAX_ANNOTATIONS {
        let message = format!("at most {MAX_ANNOTATIONS} bytes together, not {bytes}");
        return Err(Refusal::invalid("metadata.annotations", message));
    }
    Ok(())
}

fn service(spec: &ServiceSpec, key: &ObjectKey, snapshot: &Snapshot) -> Result<(), Refusal> {
    version(spec.version.as_deref())?;
    life::service(spec)?;
    if spec.ports.is_empty() != spec.portless || spec.ports.len() > MAX_PORTS {
        return Err(Refusal::invalid(
            "spec.ports",
            format!("a service has 1 to {MAX_PORTS} ports, and none where it is portless"),
        ));
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        name::label(&format!("{field}.name"), &port.name)?;
        if !names.insert(&port.name) {
            return Err(Refusal::invalid(
                format!("{field}.name"),
                format!("the name {} is used twice", port.name),
            ));
        }
        not_zero(&format!("{field}.port"), port.port)?;
        if !numbers.insert((port.port, port.protocol == Protocol::Udp)) {
            return Err(Refusal::invalid(
                format!("{field}.port"),
                format!("the port {} is used twice", port.port),
            ));
        }
    }
    address::list(&spec.addresses)?;
    outside::service(spec, key, snapshot)?;
    for (index, wanted) in spec.addresses.iter().enumerate() {
        if let Some(owner) = address::owner(*wanted, snapshot, |kind, other| {
            outside::is_of_service(kind, other, key, snapshot)
        }) {
            return Err(address::taken(index, *wanted, &owner));
        }
    }
    Ok(())
}

fn endpoint(spec: &EndpointSpec, key: &ObjectKey, snapshot: &Snapshot) -> Result<(), Refusal> {
    version(spec.version.as_deref())?;
    name::subdomain("spec.service", &spec.service)?;
    outside::endpoint(spec)?;
    if let Some(service) = snapshot.service_at(spec.address)
        && (service.namespace != key.namespace || service.name != spec.service)
    {
        return Err(Refusal::invalid(
            "spec.address",
            format!(
                "{} is a virtual address of Service {service}; an endpoint has an address of its own",
                spec.address
            ),
        ));
    }
    if spec.ports.len() > MAX_PORTS {
        return Err(Refusal::invalid(
            "spec.ports",
            format!("an endpoint has at most {MAX_PORTS} ports"),
        ));
    }
    for (port_name, port) in &spec.ports {
        let field = format!("spec.ports.{port_name}");
        name::label(&field, port_name)?;
        not_zero(&field, *port)?;
    }
    if let Some(port) = spec.port {
        not_zero("spec.port", port)?;
    }
    life::endpoint(spec)?;
    spec.locality.as_ref().map_or(Ok(()), locality)
}

fn locality(locality: &Locality) -> Result<(), Refusal> {
    for (part, name) in [
        ("region", &locality.region),
        ("zone", &locality.zone),
        ("node", &locality.node),
    ] {
        if let Some(name) = name {
            bound::length(&format!("spec.locality.{part}"), name, 1..=MAX_LOCALITY)?;
        }
    }
    Ok(())
}

fn workload(spec: &WorkloadSpec, key: &ObjectKey, snapshot: &Snapshot) -> Result<(), Refusal> {
    let (field, wanted) = match (&spec.netns, &spec.cgroup) {
        (Some(netns), None) => ("spec.netns", netns),
        (None, Some(cgroup)) => ("spec.cgroup", cgroup),
        (Some(_), Some(_)) => {
            return Err(Refusal::invalid(
                "spec.cgroup",
                "either netns or cgroup is given, not both",
            ));
        }
        (None, None) => {
            return Err(Refusal::invalid("spec.netns", "netns or cgroup is needed"));
        }
    };
    path(field, wanted)?;
    if spec.registry_access && spec.netns.is_none() {
        return Err(Refusal::invalid(
            "spec.registryAccess",
            "a workload that is found by its cgroup reaches the agent's own listener",
        ));
    }
    let mut others = snapshot.workloads.iter().filter(|(other, _)| *other != key);
    if let Some((owner, _)) =
        others.find(|(_, it)| it.spec.netns == spec.netns && it.spec.cgroup == spec.cgroup)
    {
        return Err(Refusal::invalid(
            field,
            format!("{} is Workload {owner} already", wanted.display()),
        ));
    }
    name::label("spec.serviceAccount", &spec.service_account)?;
    address::list(&spec.addresses)?;
    outside::workload(spec)?;
    for (index, wanted) in spec.addresses.iter().enumerate() {
        // An endpoint may be where a workload is.
        let owner = address::owner(*wanted, snapshot, |kind, other| {
            kind == Kind::Endpoint || kind == Kind::Workload && other == key
        });
        if let Some(owner) = owner {
            return Err(address::taken(index, *wanted, &owner));
        }
    }
    Ok(())
}

fn path(field: &str, path: &Path) -> Result<(), Refusal> {
    let is_plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !is_plain {
        return Err(Refusal::invalid(field, "an absolute path without `..`"));
    }
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() > MAX_PATH || bytes.contains(&0) {
        return Err(Refusal::invalid(
            field,
            format!("a path of at most {MAX_PATH} bytes, none of them zero"),
        ));
    }
    Ok(())
}

fn version(version: Option<&str>) -> Result<(), Refusal> {
    if version.is_some_and(|version| version.len() > MAX_VERSION) {
        return Err(Refusal::invalid(
            "spec.version",
            format!("at most {MAX_VERSION} bytes"),
        ));
    }
    Ok(())
}

fn not_zero(field: &str, port: u16) -> Result<(), Refusal> {
    if port == 0 {
        return Err(Refusal::invalid(field, "a port is 1 to 65535"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

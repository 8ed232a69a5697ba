//! Which names are of the mesh, and what they name. Pure.
//!
//! * `SERVICE.NAMESPACE.mesh`: the service's virtual addresses; of a headless one those of its endpoints that are well.
//! * `ENDPOINT.SERVICE.NAMESPACE.mesh`: an endpoint of a headless service.
//! * `_PORT._tcp.SERVICE.NAMESPACE.mesh` (or `_udp`): where a port of the service is (RFC 2782).
//! * `SERVICE` and `SERVICE.NAMESPACE`, as programs ask without a search list: the same, where there is such a service,
//!   in the caller's namespace or in the one that is named. Else the name is somebody else's.
//!
//! Names of services and of endpoints may have dots. Where a name can be read in two ways, that of the service is the
//! longer one.
//!
//! * What services have as their `hostnames`.
//! * The reverse names of virtual addresses.

use mesh_common::service::UDP;

use hickory_proto::rr::Name;

use crate::state::Snapshot;
use crate::state::endpoint::Endpoint;
use crate::state::object::ObjectKey;
use crate::state::service::{Port, Service};

/// The domain of the mesh.
pub(super) const DOMAIN: &str = "mesh";

/// What a name is.
#[derive(Clone, Debug)]
pub(super) enum Found<'a> {
    /// Not of the mesh.
    Elsewhere,
    /// Of the mesh, and there is none such.
    Nothing,
    /// There are names below it, and nothing is at it.
    Branch,
    /// A service with virtual addresses.
    Service(&'a Service),
    /// Endpoints of a headless service.
    Endpoints(Vec<&'a Endpoint>),
    /// A port of a service.
    Port(&'a ObjectKey, &'a Service, &'a Port),
    /// The same of a headless service, at its endpoints.
    Ports(&'a ObjectKey, Vec<&'a Endpoint>, &'a Port),
    /// A virtual address of a service.
    Address(&'a ObjectKey),
}

/// Finds what `name` is to a caller of `namespace`.
pub(super) fn find<'a>(snapshot: &'a Snapshot, namespace: Option<&str>, name: &Name) -> Found<'a> {
    let Some(labels) = labels(name) else {
        return Found::Elsewhere;
    };
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let outside = snapshot.service_named(&labels.join("."));
    if let Some((_, service)) = outside.and_then(|key| snapshot.services.get_key_value(key)) {
        return whole(snapshot, service);
    }
    match labels.as_slice() {
        [] => Found::Elsewhere,
        [.., "arpa"] => address(snapshot, name),
        [inside @ .., DOMAIN] => inside_the_domain(snapshot, inside),
        [port, transport, rest @ ..] if port.starts_with('_') => {
            let service = short(snapshot, namespace, rest);
            let port = service.and_then(|it| self::port(snapshot, it, port, transport));
            port.unwrap_or(Found::Elsewhere)
        }
        rest => match short(snapshot, namespace, rest) {
            Some((_, service)) => whole(snapshot, service),
            None => Found::Elsewhere,
        },
    }
}

/// The labels in lower case; `None` where one is no text, which no name of the mesh is.
fn labels(name: &Name) -> Option<Vec<String>> {
    let text = |label: &[u8]| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
    name.iter().map(text).collect()
}

fn inside_the_domain<'a>(snapshot: &'a Snapshot, labels: &[&str]) -> Found<'a> {
    match labels {
        [] => Found::Branch,
        [namespace] if has_services(snapshot, namespace) => Found::Branch,
        [_] => Found::Nothing,
        [before @ .., namespace] => {
            let mut splits = (0..before.len()).filter_map(|at| before.split_at_checked(at));
            let found = splits.find_map(|(before, name)| {
                let service = service(snapshot, &name.join("."), namespace)?;
                of_service(snapshot, before, service)
            });
            found.unwrap_or_else(|| below(snapshot, &before.join("."), namespace))
        }
    }
}

/// What the labels before the name of a service make of it.
fn of_service<'a>(
    snapshot: &'a Snapshot,
    before: &[&str],
    (key, service): (&'a ObjectKey, &'a Service),
) -> Option<Found<'a>> {
    match before {
        [] => Some(whole(snapshot, service)),
        ["_tcp" | "_udp"] => Some(Found::Branch),
        [name, transport @ ("_tcp" | "_udp")] => port(snapshot, (key, service), name, transport),
        endpoint => endpoint_of(snapshot, &endpoint.join("."), service),
    }
}

/// What a name is at which there is nothing: names may end in it. A resolver that hears that it is not there takes those
/// below it for absent too (RFC 8020).
fn below<'a>(snapshot: &'a Snapshot, name: &str, namespace: &str) -> Found<'a> {
    let services = snapshot.services.range(ObjectKey::new(namespace, "")..);
    let mut services = services.take_while(|(key, _)| key.namespace == namespace);
    let ends = |whole: &str| whole.strip_suffix(name).is_some_and(|it| it.ends_with('.'));
    if services.any(|(key, _)| ends(&key.name)) {
        Found::Branch
    } else {
        Found::Nothing
    }
}

/// What the name of a service stands for.
fn whole<'a>(snapshot: &'a Snapshot, service: &'a Service) -> Found<'a> {
    if service.spec.headless {
        Found::Endpoints(ready(snapshot, service))
    } else {
        Found::Service(service)
    }
}

/// The endpoints of a headless service that are well.
fn ready<'a>(snapshot: &'a Snapshot, service: &'a Service) -> Vec<&'a Endpoint> {
    snapshot
        .endpoints_of(&service.key())
        .map(|it| &**it)
        .filter(|it| it.is_offered() && it.weight() > 0 && !it.has_failed())
        .take(MAX_ENDPOINTS)
        .collect()
}

/// An endpoint of a headless service by its name.
fn endpoint_of<'a>(snapshot: &'a Snapshot, name: &str, service: &Service) -> Option<Found<'a>> {
    let key = ObjectKey::new(&service.metadata.namespace, name);
    let endpoint = snapshot.endpoints.get(&key)?;
    let is_its = service.spec.headless
        && endpoint.spec.service == service.metadata.name
        && endpoint.spec.hostname.is_none();
    is_its.then(|| Found::Endpoints(vec![endpoint]))
}

/// A service by a name that does not end in the domain.
fn short<'a>(
    snapshot: &'a Snapshot,
    namespace: Option<&str>,
    labels: &[&str],
) -> Option<(&'a ObjectKey, &'a Service)> {
    let own = namespace.and_then(|it| service(snapshot, &labels.join("."), it));
    own.or_else(|| {
        let (namespace, name) = labels.split_last()?;
        service(snapshot, &name.join("."), namespace)
    })
}

fn service<'a>(
    snapshot: &'a Snapshot,
    name: &str,
    namespace: &str,
) -> Option<(&'a ObjectKey, &'a Service)> {
    let services = &snapshot.services;
    let (key, service) = services.get_key_value(&ObjectKey::new(namespace, name))?;
    Some((key, service))
}

fn has_services(snapshot: &Snapshot, namespace: &str) -> bool {
    let mut from = snapshot.services.range(ObjectKey::new(namespace, "")..);
    from.next()
        .is_some_and(|(key, _)| key.namespace == namespace)
}

fn port<'a>(
    snapshot: &'a Snapshot,
    (key, service): (&'a ObjectKey, &'a Service),
    name: &str,
    transport: &str,
) -> Option<Found<'a>> {
    let name = name.strip_prefix('_')?;
    let is_udp = match transport {
        "_tcp" => false,
        "_udp" => true,
        _ => return None,
    };
    let mut ports = service.spec.ports.iter();
    let is_it = |port: &&Port| port.name == name && (port.protocol.transport() == UDP) == is_udp;
    let port = ports.find(is_it)?;
    Some(if service.spec.headless {
        Found::Ports(key, ready(snapshot, service), port)
    } else {
        Found::Port(key, service, port)
    })
}

fn address<'a>(snapshot: &'a Snapshot, name: &Name) -> Found<'a> {
    let mut name = name.clone();
    name.set_fqdn(true);
    let Ok(network) = name.parse_arpa_name() else {
        return Found::Elsewhere;
    };
    let is_whole = network.prefix_len() == network.max_prefix_len();
    match snapshot.service_at(network.addr()) {
        Some(key) if is_whole => Found::Address(key),
        _ => Found::Elsewhere,
    }
}

/// Most endpoints that a name stands for: what a message over TCP has room for.
const MAX_ENDPOINTS: usize = 512;

#[cfg(test)]
pub(super) mod tests;

//! Rules of what lies outside the mesh: names of services and endpoints, and ways out.

use super::{address, bound, name};
use crate::state::endpoint::EndpointSpec;
use crate::state::object::{Kind, ObjectKey};
use crate::state::service::ServiceSpec;
use crate::state::workload::{Egress, WorkloadSpec};
use crate::state::{Refusal, Snapshot};

/// Most names of a service outside the mesh.
const MAX_HOSTNAMES: usize = 16;
/// Most ways out of a workload.
const MAX_EXITS: usize = 64;
/// Most ports of a way out.
const MAX_EXIT_PORTS: usize = 16;

/// What a service says of the world outside.
pub(super) fn service(
    spec: &ServiceSpec,
    key: &ObjectKey,
    snapshot: &Snapshot,
) -> Result<(), Refusal> {
    if spec.headless && !spec.addresses.is_empty() {
        return Err(Refusal::invalid(
            "spec.addresses",
            "a headless service is dialled at its endpoints, and has no addresses",
        ));
    }
    bound::at_most("spec.hostnames", &spec.hostnames, MAX_HOSTNAMES)?;
    if let Some(index) = bound::repeated(&spec.hostnames) {
        let field = format!("spec.hostnames[{index}]");
        return Err(Refusal::invalid(field, "it is there twice"));
    }
    for (index, hostname) in spec.hostnames.iter().enumerate() {
        let field = format!("spec.hostnames[{index}]");
        outside(&field, hostname)?;
        let owner = snapshot.service_named(hostname);
        if let Some(owner) = owner.filter(|owner| *owner != key) {
            let message = format!("{hostname} is a name of Service {owner} already");
            return Err(Refusal::invalid(field, message));
        }
    }
    Ok(())
}

/// Where an endpoint is.
pub(super) fn endpoint(spec: &EndpointSpec) -> Result<(), Refusal> {
    match &spec.hostname {
        // A heartbeat, or a check of one address, says nothing of the others.
        Some(_) if !spec.checks.is_empty() => Err(Refusal::not_supported(
            "spec.checks",
            "an endpoint with a hostname has no checks of its own: a TrafficPolicy checks each address",
        )),
        Some(hostname) if spec.address.is_unspecified() => outside("spec.hostname", hostname),
        Some(_) => Err(Refusal::invalid(
            "spec.hostname",
            "either address or hostname is given, not both",
        )),
        None if spec.address.is_unspecified() => Err(Refusal::invalid(
            "spec.address",
            "an address that others can dial, or a hostname, is needed",
        )),
        None => address::usable("spec.address", spec.address),
    }
}

/// A name that others than the mesh know.
fn outside(field: &str, hostname: &str) -> Result<(), Refusal> {
    name::subdomain(field, hostname)?;
    let last = hostname.rsplit('.').next().unwrap_or_default();
    if last == "mesh" || last.bytes().all(|it| it.is_ascii_digit()) {
        let message = "a name outside the mesh: not below .mesh, and no address";
        return Err(Refusal::invalid(field, message));
    }
    Ok(())
}

/// The ways out of a workload.
pub(super) fn workload(spec: &WorkloadSpec) -> Result<(), Refusal> {
    let field = "spec.egressAllow";
    if !spec.egress_allow.is_empty() && spec.egress != Egress::Locked {
        return Err(Refusal::invalid(
            field,
            "everything may be dialled unless egress is locked",
        ));
    }
    bound::at_most(field, &spec.egress_allow, MAX_EXITS)?;
    for (index, exit) in spec.egress_allow.iter().enumerate() {
        let field = format!("{field}[{index}].ports");
        bound::at_most(&field, &exit.ports, MAX_EXIT_PORTS)?;
        for port in &exit.ports {
            super::not_zero(&field, *port)?;
        }
    }
    Ok(())
}

/// Whether an object is a service, or an endpoint of it: an endpoint outside the mesh may have the address that its service
/// is dialled by.
pub(super) fn is_of_service(
    kind: Kind,
    other: &ObjectKey,
    service: &ObjectKey,
    snapshot: &Snapshot,
) -> bool {
    match kind {
        Kind::Service => other == service,
        Kind::Endpoint => {
            let endpoint = snapshot.endpoints.get(other);
            let is_its = endpoint.is_some_and(|it| it.spec.service == service.name);
            is_its && other.namespace == service.namespace
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::state::object::{Kind, ObjectKey};
    use crate::state::{Change, Refusal, Store, decode};

    fn put(store: &Store, kind: Kind, name: &str, spec: &Value) -> Result<(), Refusal> {
        let key = ObjectKey::new("shop", name);
        let document = json!({
            "apiVersion": "mesh.dev/v1alpha1", "kind": kind.name(),
            "metadata": { "name": name, "namespace": "shop" }, "spec": spec,
        });
        let manifest = decode::manifest(kind, &key, document)?;
        store.apply(Change::Put(manifest)).map(drop)
    }

    #[track_caller]
    fn refused(store: &Store, kind: Kind, name: &str, spec: &Value) -> String {
        match put(store, kind, name, spec).unwrap_err() {
            Refusal::Invalid { field, .. } => field,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_endpoint_has_an_address_or_a_name_outside_the_mesh() {
        let store = Store::in_memory();
        let check = |spec: Value, field: &str| {
            assert_eq!(refused(&store, Kind::Endpoint, "a", &spec), field, "{spec}");
        };
        check(json!({"service": "pay"}), "spec.address");
        let both = json!({"service": "pay", "address": "10.0.0.1", "hostname": "a.example.com"});
        check(both, "spec.hostname");
        for hostname in [
            "",
            "A.example.com",
            "a..b",
            "x.shop.mesh",
            "mesh",
            "10.0.0.1",
        ] {
            check(
                json!({"service": "pay", "hostname": hostname}),
                "spec.hostname",
            );
        }
        let checked = json!({"service": "pay", "hostname": "a.example.com", "checks": [{"id": "a", "ttl": "10s"}]});
        check(checked, "spec.checks");
        let named = json!({"service": "pay", "hostname": "a.example.com"});
        put(&store, Kind::Endpoint, "a", &named).unwrap();
        let snapshot = store.snapshot();
        let object = &*snapshot.endpoints[&ObjectKey::new("shop", "a")];
        let shown = serde_json::to_value(object).unwrap();
        assert_eq!(
            shown["spec"].get("address"),
            None,
            "what is shown can be put again"
        );
        assert_eq!(shown["spec"]["hostname"], "a.example.com");
    }

    #[test]
    fn names_outside_the_mesh_belong_to_one_service() {
        let store = Store::in_memory();
        let ports = json!([{"name": "https", "port": 443}]);
        let spec = |names: Value| json!({"ports": ports, "hostnames": names});
        put(
            &store,
            Kind::Service,
            "pay",
            &spec(json!(["a.example.com"])),
        )
        .unwrap();
        put(
            &store,
            Kind::Service,
            "pay",
            &spec(json!(["a.example.com", "b.example.com"])),
        )
        .unwrap();
        for (names, field) in [
            (
                json!(["c.example.com", "a.example.com"]),
                "spec.hostnames[1]",
            ),
            (
                json!(["c.example.com", "c.example.com"]),
                "spec.hostnames[1]",
            ),
            (json!(["web.shop.mesh"]), "spec.hostnames[0]"),
        ] {
            assert_eq!(refused(&store, Kind::Service, "bank", &spec(names)), field);
        }
    }

    #[test]
    fn a_headless_service_has_no_address() {
        let store = Store::in_memory();
        let mut spec = json!({"ports": [{"name": "sql", "port": 5432}], "headless": true});
        put(&store, Kind::Service, "db", &spec).unwrap();
        let snapshot = store.snapshot();
        let service = &snapshot.services[&ObjectKey::new("shop", "db")];
        assert!(service.status.addresses.is_empty());
        spec["addresses"] = json!(["240.240.0.1"]);
        assert_eq!(
            refused(&store, Kind::Service, "db", &spec),
            "spec.addresses"
        );
    }

    #[test]
    fn an_endpoint_may_have_the_address_of_its_own_service_only() {
        let store = Store::in_memory();
        let service = json!({"ports": [{"name": "tls", "port": 443}], "addresses": ["192.0.2.1"]});
        let endpoint = |service: &str| json!({"service": service, "address": "192.0.2.1"});
        put(&store, Kind::Service, "bank", &service).unwrap();
        put(&store, Kind::Endpoint, "bank-1", &endpoint("bank")).unwrap();
        let other = refused(&store, Kind::Endpoint, "web-1", &endpoint("web"));
        assert_eq!(other, "spec.address");
        put(&store, Kind::Service, "bank", &service).unwrap();
        assert_eq!(
            refused(&store, Kind::Service, "web", &service),
            "spec.addresses[0]"
        );
        let turned = Store::in_memory();
        put(&turned, Kind::Endpoint, "bank-1", &endpoint("bank")).unwrap();
        put(&turned, Kind::Service, "bank", &service).unwrap();
    }

    #[test]
    fn ways_out_are_of_workloads_that_are_locked() {
        let store = Store::in_memory();
        let spec = |egress: &str, exits: Value| json!({"netns": "/run/netns/a", "egress": egress, "egressAllow": exits});
        let exits = json!([{"cidr": "192.0.2.0/24", "ports": [443]}, {"cidr": "fd00::/8"}]);
        put(&store, Kind::Workload, "a", &spec("locked", exits.clone())).unwrap();
        let field = |spec: &Value| refused(&store, Kind::Workload, "a", spec);
        assert_eq!(field(&spec("open", exits)), "spec.egressAllow");
        let zero = json!([{"cidr": "192.0.2.0/24", "ports": [0]}]);
        assert_eq!(field(&spec("locked", zero)), "spec.egressAllow[0].ports");
        let many = json!(vec![json!({"cidr": "192.0.2.0/24"}); 65]);
        assert_eq!(field(&spec("locked", many)), "spec.egressAllow");
    }
}

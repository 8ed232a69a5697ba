//! Snapshot to view. What did not change keeps its place in memory.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::address::SocketAddress;

use super::{Endpoint, Live, Memory, ServicePort, Table, View, Workload, first_of};
use crate::proxy::limits::Usage;
use crate::state::Snapshot;
use crate::state::endpoint as model;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::service::{Port, Protocol, Service};
use crate::state::workload;
use crate::traffic::authz;
use crate::traffic::balance;

impl View {
    /// Compiles the view that follows `self`.
    pub(crate) fn next(&self, snapshot: &Snapshot) -> Self {
        let mut view = Self {
            revision: snapshot.revision,
            authz: authz::compile(snapshot),
            ..Self::default()
        };
        let mut by_address = HashMap::new();
        for (key, workload) in snapshot.workloads.iter() {
            let compiled = self.next_workload(snapshot, key, workload);
            for address in &workload.spec.addresses {
                by_address.insert(*address, Arc::clone(&compiled));
            }
            view.workloads.insert(compiled.number, compiled);
        }
        let mut served: HashMap<ObjectKey, Vec<&Arc<model::Endpoint>>> = HashMap::new();
        for endpoint in snapshot.endpoints.values() {
            let service = ObjectKey::new(&endpoint.metadata.namespace, &endpoint.spec.service);
            served.entry(service).or_default().push(endpoint);
        }
        for (key, service) in snapshot.services.iter() {
            let endpoints = served.get(key).map_or(&[][..], Vec::as_slice);
            for port in &service.spec.ports {
                if port.protocol == Protocol::Udp {
                    continue;
                }
                let sources = Sources {
                    snapshot,
                    key,
                    service,
                    port,
                    endpoints,
                    by_address: &by_address,
                };
                let compiled = self.next_port(&sources, &mut view.lives);
                for address in virtual_addresses(service) {
                    let dialled = SocketAddress::new((*address).into(), port.port);
                    view.ports.insert(dialled, Arc::clone(&compiled));
                }
            }
        }
        view
    }

    fn next_workload(
        &self,
        snapshot: &Snapshot,
        key: &ObjectKey,
        workload: &workload::Workload,
    ) -> Arc<Workload> {
        let number = snapshot.ids.number(&Subject::Workload(key.clone()));
        let label = |name: &str| workload.metadata.labels.get(name).cloned();
        let usage = self
            .workloads
            .get(&number)
            .map_or_else(|| Arc::new(Usage::default()), |old| Arc::clone(&old.usage));
        Arc::new(Workload {
            number,
            key: key.clone(),
            service_account: workload.spec.service_account.clone(),
            app: label("app"),
            version: label("version"),
            ipv4: first_of(&workload.spec.addresses, true),
            ipv6: first_of(&workload.spec.addresses, false),
            is_accelerated: workload.spec.acceleration,
            usage,
        })
    }

    fn next_port(&self, from: &Sources<'_>, lives: &mut Table<u32, Arc<Live>>) -> Arc<ServicePort> {
        let mut endpoints = Vec::with_capacity(from.endpoints.len());
        let mut weights = [Vec::new(), Vec::new()];
        for source in from.endpoints {
            let endpoint = self.next_endpoint(from, source);
            let weight = if source.spec.draining {
                0
            } else {
                source.spec.weight
            };
            let [v4, v6] = &mut weights;
            let is_v4 = endpoint.address.is_ipv4();
            v4.push(if is_v4 { weight } else { 0 });
            v6.push(if is_v4 { 0 } else { weight });
            lives.insert(endpoint.number, Arc::clone(&endpoint.live));
            endpoints.push(endpoint);
        }
        let number = from.number(Subject::Port(from.key.clone(), from.port.name.clone()));
        let old = virtual_addresses(from.service)
            .first()
            .and_then(|address| self.port(&SocketAddress::new((*address).into(), from.port.port)))
            .filter(|old| old.number == number && old.protocol == from.port.protocol);
        let memory = old.map_or_else(
            || Arc::new(Memory::default()),
            |old| Arc::clone(&old.memory),
        );
        Arc::new(ServicePort {
            service_number: from.number(Subject::Service(from.key.clone())),
            number,
            host: format!("{}.{}.mesh", from.key.name, from.key.namespace),
            service: from.key.clone(),
            protocol: from.port.protocol,
            balancing: from.service.spec.balancing,
            endpoints,
            slots: weights.map(|weights| balance::slots(&weights)),
            memory,
        })
    }

    fn next_endpoint(&self, from: &Sources<'_>, source: &model::Endpoint) -> Arc<Endpoint> {
        let key = source.key();
        let address = SocketAddr::new(source.spec.address, source.spec.port_of(from.port));
        let number = from.number(Subject::Endpoint(key.clone(), from.port.name.clone()));
        let live = self
            .lives
            .get(&number)
            .filter(|live| live.address == address)
            .map_or_else(|| Arc::new(Live::new(address)), Arc::clone);
        Arc::new(Endpoint {
            number,
            key,
            address,
            weight: source.spec.weight,
            version: source.spec.version.clone(),
            workload: from.by_address.get(&source.spec.address).map(Arc::clone),
            live,
        })
    }
}

/// What a service port is compiled from.
struct Sources<'a> {
    snapshot: &'a Snapshot,
    key: &'a ObjectKey,
    service: &'a Service,
    port: &'a Port,
    endpoints: &'a [&'a Arc<model::Endpoint>],
    by_address: &'a HashMap<IpAddr, Arc<Workload>>,
}

impl Sources<'_> {
    fn number(&self, subject: Subject) -> u32 {
        self.snapshot.ids.number(&subject)
    }
}

/// The addresses by which a service is dialled.
fn virtual_addresses(service: &Service) -> &[IpAddr] {
    if service.status.addresses.is_empty() {
        &service.spec.addresses
    } else {
        &service.status.addresses
    }
}

//! Snapshot to view. What did not change keeps its place in memory.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use mesh_common::address::SocketAddress;

use super::live::{SeriesKey, labels_id};
use super::plans::Layouts;
use super::policies::Policies;
use super::routes::{self, PortRoutes, Routes};
use super::{Endpoint, Live, Memory, ServicePort, SharedTable, View, Workload, first_of};
use crate::proxy::limits::Usage;
use crate::proxy::policy::Policy;
use crate::proxy::policy::balancing;
use crate::state::Snapshot;
use crate::state::affected::Affected;
use crate::state::endpoint as model;
use crate::state::endpoint::HealthStatus;
use crate::state::id::Subject;
use crate::state::object::{Kind, ObjectKey};
use crate::state::service::{Port, Protocol, Service};
use crate::state::workload;
use crate::telemetry::access_log::Known;

impl View {
    /// Compiles the view that follows `self`: anew is only what the step concerns.
    pub(crate) fn next(&self, snapshot: &Snapshot) -> Self {
        let affected = Affected::between(&self.snapshot, snapshot);
        let mut view = Self {
            snapshot: snapshot.clone(),
            authz: self.authz.next(&self.snapshot, snapshot, &affected),
            ..self.clone()
        };
        view.routes.forget_changed(&self.snapshot, snapshot);
        let mut has_changed = false;
        for key in &affected.workloads {
            let number = self.snapshot.number_of_workload(key);
            view.workloads.remove(&number);
            if let Some(workload) = snapshot.workloads.get(key) {
                let compiled = self.next_workload(snapshot, key, workload);
                view.workloads.insert(compiled.number, compiled);
            }
            let old = self.workloads.get(&number).map(|it| it.labels_id);
            let new = view.workloads.get(&number).map(|it| it.labels_id);
            has_changed |= old.is_some() && old != new;
        }
        for key in &affected.services {
            view.forget_service(key);
        }
        for key in &affected.services {
            if let Some(service) = snapshot.services.get(key) {
                self.add_service(&mut view, snapshot, (key, service));
            }
        }
        if has_changed {
            view.forget_callers();
        }
        view
    }

    /// Forgets a service of this view.
    fn forget_service(&mut self, key: &ObjectKey) {
        self.policies.remove(key);
        self.routes.forget_service(key);
        for port in self.services.remove(key).unwrap_or_default() {
            for address in port.object.virtual_addresses() {
                self.ports
                    .remove(&SocketAddress::new((*address).into(), port.port));
            }
            for endpoint in &port.endpoints {
                self.lives.remove(&endpoint.number);
            }
        }
    }

    /// Compiles a service into the next view.
    fn add_service(
        &self,
        view: &mut Self,
        snapshot: &Snapshot,
        (key, service): (&ObjectKey, &Arc<Service>),
    ) {
        let policies = Policies::of(snapshot, &self.no_policy);
        // A pattern for others has no address.
        let endpoints = snapshot.endpoints_of(key);
        let endpoints: Vec<_> = endpoints.filter(|it| it.spec.hostname.is_none()).collect();
        let policy = policies.service(key, &self.policies);
        if policy.object().is_some() {
            view.policies.insert(key.clone(), Arc::clone(&policy));
        }
        let mut ports = Vec::new();
        for port in &service.spec.ports {
            if port.protocol == Protocol::Udp {
                continue;
            }
            let sources = Sources {
                snapshot,
                key,
                service,
                port,
                endpoints: &endpoints,
                policy: &policy,
                policies: &policies,
                workloads: &view.workloads,
            };
            let compiled = self.next_port(&sources, &mut view.lives, &mut view.routes);
            for address in service.virtual_addresses() {
                let dialled = SocketAddress::new((*address).into(), port.port);
                view.ports.insert(dialled, Arc::clone(&compiled));
            }
            ports.push(compiled);
        }
        if !ports.is_empty() {
            view.services.insert(key.clone(), ports);
        }
    }

    /// Lets go of the series of callers that are gone or have other labels now; the families keep them for a while.
    fn forget_callers(&self) {
        // Zero stands for all who are not in the registry.
        let is_known = |key: &SeriesKey| {
            let caller = self.workloads.get(&key.caller);
            key.caller == 0 || caller.is_some_and(|it| it.labels_id == key.caller_labels)
        };
        for live in self.lives.values() {
            live.series.retain(is_known);
        }
        for port in self.ports.values() {
            port.memory.series.retain(is_known);
        }
    }

    fn next_workload(
        &self,
        snapshot: &Snapshot,
        key: &ObjectKey,
        workload: &Arc<workload::Workload>,
    ) -> Arc<Workload> {
        let number = snapshot.number_of_workload(key);
        let old = self.workloads.get(&number);
        if let Some(old) = old
            && let Some(object) = &old.object
            && Arc::ptr_eq(object, workload)
        {
            return Arc::clone(old);
        }
        let label = |name: &str| workload.metadata.labels.get(name).cloned();
        let (app, version) = (label("app"), label("version"));
        let usage = old.map_or_else(|| Arc::new(Usage::default()), |old| Arc::clone(&old.usage));
        Arc::new(Workload {
            number,
            key: key.clone(),
            service_account: workload.spec.service_account.clone(),
            labels_id: labels_id((key, &app, &version)),
            app,
            version,
            ipv4: first_of(&workload.spec.addresses, true),
            ipv6: first_of(&workload.spec.addresses, false),
            is_accelerated: workload.spec.acceleration,
            usage,
            object: Some(Arc::clone(workload)),
        })
    }

    fn next_port(
        &self,
        from: &Sources<'_>,
        lives: &mut SharedTable<u32, Arc<Live>>,
        routes: &mut Routes,
    ) -> Arc<ServicePort> {
        let old = self.port_of(from.key, from.port.port);
        let last = old.and_then(|old| old.routes.as_ref());
        let routes = routes.port(&self.routes, &from.routes(), last);
        if let Some(old) = old
            && from.made(old, routes.as_ref())
        {
            let kept = old.endpoints.iter();
            lives.extend(kept.map(|endpoint| (endpoint.number, Arc::clone(&endpoint.live))));
            return Arc::clone(old);
        }
        let mut endpoints = Vec::with_capacity(from.endpoints.len());
        for source in from.endpoints {
            let endpoint = self.next_endpoint(from, source);
            lives.insert(endpoint.number, Arc::clone(&endpoint.live));
            endpoints.push(endpoint);
        }
        let number = from.number(Subject::Port(from.key.clone(), from.port.name.clone()));
        let alike = old.filter(|old| old.number == number && old.protocol == from.port.protocol);
        let memory = alike.map_or_else(
            || Arc::new(Memory::default()),
            |old| Arc::clone(&old.memory),
        );
        let balancing = from.policy.balancing.as_deref();
        let rules = balancing::rules(balancing, from.service.spec.balancing);
        let layouts = Layouts::new(
            rules,
            balancing,
            &endpoints,
            &self.here,
            old.map(|old| &old.layouts),
        );
        Arc::new(ServicePort {
            service_number: from.number(Subject::Service(from.key.clone())),
            number,
            port: from.port.port,
            host: format!("{}.{}.mesh", from.key.name, from.key.namespace),
            service: from.key.clone(),
            protocol: from.port.protocol,
            endpoints,
            layouts,
            sessions: OnceLock::new(),
            policy: Arc::clone(from.policy),
            routes,
            memory,
            object: Arc::clone(from.service),
        })
    }

    fn next_endpoint(&self, from: &Sources<'_>, source: &Arc<model::Endpoint>) -> Arc<Endpoint> {
        let key = source.key();
        let address = SocketAddr::new(source.spec.address, source.spec.port_of(from.port));
        let number = from.number(Subject::Endpoint(key.clone(), from.port.name.clone()));
        let live = self
            .lives
            .get(&number)
            .filter(|live| live.address == address)
            .map_or_else(|| Arc::new(Live::new(address)), Arc::clone);
        let workload = from.workload(source).map(Arc::clone);
        let version = source.spec.version.clone();
        let of_workload = workload.as_ref().map(|it| it.labels_id);
        let labels_id = labels_id((from.key, &version, of_workload));
        live.series.retain(|it| it.endpoint_labels == labels_id);
        let health = source.status.health.as_ref().map(|health| health.status);
        let has_failed_registered = source.has_failed_registered();
        live.offered(source.is_offered() && source.weight() > 0);
        live.registered(has_failed_registered);
        live.checked(health == Some(HealthStatus::Critical) && !has_failed_registered);
        Arc::new(Endpoint {
            number,
            key,
            address,
            weight: source.weight(),
            version,
            workload,
            live,
            labels_id,
            logged: Known::default(),
            object: Arc::clone(source),
        })
    }
}

/// What a service port is compiled from.
struct Sources<'a> {
    snapshot: &'a Snapshot,
    key: &'a ObjectKey,
    service: &'a Arc<Service>,
    port: &'a Port,
    endpoints: &'a [&'a Arc<model::Endpoint>],
    policy: &'a Arc<Policy>,
    policies: &'a Policies<'a>,
    workloads: &'a SharedTable<u32, Arc<Workload>>,
}

impl Sources<'_> {
    /// Whether a port of the last view was made of the same. Its numbers are the same then: they are never given twice,
    /// and who comes back is a new object. Authorization policies are no part of a port.
    fn made(&self, old: &ServicePort, routes: Option<&Arc<PortRoutes>>) -> bool {
        Arc::ptr_eq(&old.object, self.service)
            && Arc::ptr_eq(&old.policy, self.policy)
            && old.routes.as_ref().map(Arc::as_ptr) == routes.map(Arc::as_ptr)
            && old.endpoints.len() == self.endpoints.len()
            && old.endpoints.iter().zip(self.endpoints).all(|(old, new)| {
                let workload = self.workload(new);
                Arc::ptr_eq(&old.object, new)
                    && old.workload.as_ref().map(Arc::as_ptr) == workload.map(Arc::as_ptr)
            })
    }

    fn routes(&self) -> routes::Sources<'_> {
        routes::Sources {
            snapshot: self.snapshot,
            policies: self.policies,
            service: self.service,
            port: self.port,
            policy: self.policy,
        }
    }

    /// The workload where an endpoint is.
    fn workload(&self, endpoint: &model::Endpoint) -> Option<&Arc<Workload>> {
        let mut holders = self.snapshot.holders_of(endpoint.spec.address);
        let (_, key) = holders.find(|(kind, _)| *kind == Kind::Workload)?;
        self.workloads.get(&self.snapshot.number_of_workload(key))
    }

    fn number(&self, subject: Subject) -> u32 {
        self.snapshot.ids.number(&subject)
    }
}

#[cfg(test)]
mod tests;

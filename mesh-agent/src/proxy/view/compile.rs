//! Snapshot to view. What did not change keeps its place in memory.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use mesh_common::address::SocketAddress;

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
        let mut has_lost = false;
        for key in &affected.workloads {
            let number = self.snapshot.number_of_workload(key);
            view.workloads.remove(&number);
            if let Some(workload) = snapshot.workloads.get(key) {
                let compiled = self.next_workload(snapshot, key, workload);
                view.workloads.insert(compiled.number, compiled);
            }
            has_lost |= number != 0 && !view.workloads.contains_key(&number);
        }
        for key in &affected.services {
            view.forget_service(key);
        }
        for key in &affected.services {
            if let Some(service) = snapshot.services.get(key) {
                self.add_service(&mut view, snapshot, (key, service));
            }
        }
        if has_lost {
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

    /// Lets go of the series of callers that are gone; the families keep them for a while.
    fn forget_callers(&self) {
        // Zero stands for all who are not in the registry.
        let is_known = |number: &u32| *number == 0 || self.workloads.contains_key(number);
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
        let usage = old.map_or_else(|| Arc::new(Usage::default()), |old| Arc::clone(&old.usage));
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
        let health = source.status.health.as_ref().map(|health| health.status);
        let has_failed_registered = source.has_failed_registered();
        live.registered(has_failed_registered);
        live.checked(health == Some(HealthStatus::Critical) && !has_failed_registered);
        Arc::new(Endpoint {
            number,
            key,
            address,
            weight: source.weight(),
            version: source.spec.version.clone(),
            workload: from.workload(source).map(Arc::clone),
            live,
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
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proxy::metrics::{Ends, Series};
    use crate::proxy::view::Active;
    use crate::state::resource::Resource;
    use crate::traffic::balance::streams::PERIOD_NS;
    use crate::traffic::fixture::Fixture;

    fn service(number: u8) -> serde_json::Value {
        let ports = json!([{"name": "main", "port": 80}, {"name": "other", "port": 81}]);
        json!({"addresses": [format!("240.240.0.{number}")], "ports": ports})
    }

    fn snapshot() -> Snapshot {
        Fixture::default()
            .service("web", &service(1))
            .service("cache", &service(2))
            .workload("server", &json!({"netns": "/n", "addresses": ["10.0.0.3"]}))
            .endpoint(
                "web-0",
                &["main", "other"],
                &json!({"service": "web", "address": "10.0.0.3"}),
            )
            .endpoint(
                "cache-0",
                &["main", "other"],
                &json!({"service": "cache", "address": "10.0.0.4"}),
            )
            .snapshot()
    }

    fn port(view: &View, number: u8) -> &Arc<ServicePort> {
        let dialled = SocketAddr::from(([240, 240, 0, number], 80));
        view.port(&dialled.into()).expect("it is there")
    }

    /// Puts another version in the place of an object, as a write does.
    fn write<R: Resource>(objects: &mut crate::state::Objects<R>, name: &str) {
        let object = objects.get_mut(&ObjectKey::new("shop", name));
        let object = Arc::make_mut(object.expect("it is there"));
        object.metadata_mut().generation += 1;
    }

    /// Whether the ports of `web` and `cache` are the same after a change.
    fn kept(change: impl FnOnce(&mut Snapshot)) -> [bool; 2] {
        let mut snapshot = snapshot();
        let before = View::default().next(&snapshot);
        change(&mut snapshot);
        let after = before.next(&snapshot);
        assert_eq!(after.lives.len(), before.lives.len());
        [1, 2].map(|number| Arc::ptr_eq(port(&before, number), port(&after, number)))
    }

    #[test]
    fn a_port_is_compiled_anew_only_if_what_it_is_made_of_has_changed() {
        assert_eq!(kept(|_| ()), [true, true]);
        assert_eq!(kept(|s| write(&mut s.services, "web")), [false, true]);
        assert_eq!(kept(|s| write(&mut s.endpoints, "cache-0")), [true, false]);
        assert_eq!(kept(|s| write(&mut s.workloads, "server")), [false, true]);
    }

    #[test]
    fn a_port_whose_endpoint_is_gone_is_compiled_anew_and_remembers() {
        let mut snapshot = snapshot();
        let before = View::default().next(&snapshot);
        snapshot.endpoints.remove(&ObjectKey::new("shop", "web-0"));
        let after = before.next(&snapshot);
        assert!(port(&after, 1).endpoints.is_empty());
        assert!(Arc::ptr_eq(
            &port(&before, 1).memory,
            &port(&after, 1).memory
        ));
        assert!(Arc::ptr_eq(port(&before, 2), port(&after, 2)));
    }

    #[test]
    fn a_caller_that_is_gone_holds_no_series() {
        let mut snapshot = snapshot();
        let server = ObjectKey::new("shop", "server");
        let number = snapshot.ids.number(&Subject::Workload(server.clone()));
        let before = View::default().next(&snapshot);
        let metrics = crate::proxy::metrics::register(&mut crate::metrics::Registry::new());
        let live = Arc::clone(&port(&before, 2).endpoints[0].live);
        let make = || Series::new(&metrics, Ends::unknown());
        let known = Arc::downgrade(&live.series(number, make));
        let unknown = Arc::downgrade(&live.series(0, make));
        snapshot.workloads.remove(&server);
        let _after = before.next(&snapshot);
        assert!(known.upgrade().is_none() && unknown.upgrade().is_some());
    }

    #[test]
    fn ports_of_one_service_are_not_taken_for_each_other() {
        let snapshot = snapshot();
        let before = View::default().next(&snapshot);
        let after = before.next(&snapshot);
        let other = SocketAddr::from(([240, 240, 0, 1], 81)).into();
        let other = after.port(&other).expect("it is there");
        assert_ne!(other.number, port(&after, 1).number);
    }

    #[test]
    fn a_response_that_goes_on_stops_counting_as_load() {
        let view = View::default().next(&snapshot());
        let endpoint = &port(&view, 1).endpoints[0];
        let load = |now_ns| endpoint.live.load(now_ns);
        let mut stream = Active::new(Arc::clone(endpoint), 0);
        let waiting = Active::new(Arc::clone(endpoint), 0);
        stream.answered(1);
        stream.answered(2);
        assert_eq!(load(PERIOD_NS), 2);
        // However long a response is waited for, the endpoint is busy.
        assert_eq!(load(3 * PERIOD_NS), 1);
        drop(stream);
        assert_eq!(load(3 * PERIOD_NS), 1);
        drop(waiting);
        assert_eq!(load(0), 0);
    }

    #[test]
    fn an_endpoint_that_came_or_recovered_is_new() {
        let mut snapshot = snapshot();
        let before = View::default().next(&snapshot);
        let since = |view: &View, number| port(view, number).endpoints[0].live.since_ns();
        let mut health = |view: &View, status: &str| {
            write(&mut snapshot.endpoints, "web-0");
            let endpoints = &mut snapshot.endpoints;
            let endpoint = endpoints.get_mut(&ObjectKey::new("shop", "web-0"));
            let endpoint = Arc::make_mut(endpoint.expect("it is there"));
            let health = json!({"status": status, "since": "", "output": ""});
            endpoint.status.health = serde_json::from_value(health).expect("a health");
            view.next(&snapshot)
        };
        let came = [since(&before, 1), since(&before, 2)];
        let failed = health(&before, "critical");
        assert_eq!(since(&failed, 1), came[0]);
        let healed = health(&failed, "passing");
        assert!(since(&healed, 1) > came[0]);
        assert_eq!(since(&healed, 2), came[1]);
    }
}

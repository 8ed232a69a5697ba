//! What is attached to what, and in force: routes of a service's port, the policy of a target, the service behind a
//! reference. Pure; the engines ask a [`Snapshot`].
//!
//! What is asked here is what the conditions of the objects say: [`settle`](super::settle) writes them by the same
//! functions.

pub mod effect;
mod failover;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::grpc_route::GrpcRoute;
use super::http_route::HttpRoute;
use super::links::Role;
use super::object::{Kind, ObjectKey};
use super::policy::AuthorizationPolicy;
use super::reference::{Backend, Referrer, Route, misfit};
use super::reference_grant::ReferenceGrant;
use super::route::ParentReference;
use super::service::{Mode, Port, Protocol, Service};
use super::stream_route::{TcpRoute, TlsRoute};
use super::traffic_policy::TrafficPolicy;
use super::{Objects, Snapshot};

/// Kinds of routes, the most specific first: it alone is in force for a port (GEP-1294, "Route types").
pub(super) const ROUTE_KINDS: [Kind; 4] = [
    Kind::GrpcRoute,
    Kind::HttpRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
];

/// Why a reference or an object is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One word, the `reason` of a condition.
    pub reason: &'static str,
    /// A sentence, for people.
    pub message: String,
}

impl Problem {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

impl Snapshot {
    /// The routes of a kind that are in force for a port of a service, in the order of their keys: for all callers
    /// those of the service's own namespace; for callers of another namespace that has routes of its own for the
    /// service those, if `namespace` is that one (GEP-1426: consumer routes). Only routes of one kind are in force: the
    /// first in [`ROUTE_KINDS`].
    pub fn routes_of<'a, R: Route>(
        &'a self,
        service: &'a Service,
        port: &'a Port,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<R>> {
        let is_taken = self.rival::<R>(service, port, namespace).is_some();
        let routes = self.bound_routes(service, port, namespace);
        routes.filter(move |_| !is_taken)
    }

    /// The routes of a kind that ask for a port of a service, and suit it.
    fn bound_routes<'a, R: Route>(
        &'a self,
        service: &'a Service,
        port: &'a Port,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<R>> {
        let key = service.key();
        let may = R::suits(port.protocol) && passes_proxy(service);
        self.links()
            .referrers_of(R::KIND, Role::Parent, (Kind::Service, &key))
            .filter(move |it| may && it.key.namespace == namespace)
            .filter_map(|it| R::all(self).get(&it.key))
            .filter(move |route| {
                let namespace = &route.metadata().namespace;
                let mut parents = route.parent_refs().iter();
                parents.any(|it| it.covers(port) && it.names(namespace, &key))
            })
    }

    /// The kind and key of a route of a more specific kind, which has a port to itself.
    fn rival<R: Route>(
        &self,
        service: &Service,
        port: &Port,
        namespace: &str,
    ) -> Option<(Kind, ObjectKey)> {
        let mut kinds = ROUTE_KINDS.iter().take_while(|kind| **kind != R::KIND);
        kinds.find_map(|kind| {
            let first = match kind {
                Kind::GrpcRoute => self.first_bound::<GrpcRoute>(service, port, namespace),
                Kind::HttpRoute => self.first_bound::<HttpRoute>(service, port, namespace),
                _ => self.first_bound::<TlsRoute>(service, port, namespace),
            };
            Some((*kind, first?))
        })
    }

    fn first_bound<R: Route>(
        &self,
        service: &Service,
        port: &Port,
        namespace: &str,
    ) -> Option<ObjectKey> {
        let mut routes = self.bound_routes::<R>(service, port, namespace);
        let metadata = routes.next()?.metadata();
        Some(ObjectKey::new(&metadata.namespace, &metadata.name))
    }

    /// The other namespaces that have routes for a service, for their own callers.
    #[must_use]
    pub fn consumers_of(&self, service: &ObjectKey) -> BTreeSet<&str> {
        self.links()
            .referrers(Role::Parent, Kind::Service, service)
            .map(|it| it.key.namespace.as_str())
            .filter(|it| *it != service.namespace)
            .collect()
    }

    /// The traffic policy that is in force for a target: a service, a route, or (with `section`) one rule of a route.
    #[must_use]
    pub fn traffic_policy_for(
        &self,
        kind: Kind,
        key: &ObjectKey,
        section: Option<&str>,
    ) -> Option<&Arc<TrafficPolicy>> {
        self.links()
            .referrers_of(Kind::TrafficPolicy, Role::Target, (kind, key))
            .filter_map(|it| self.traffic_policies.get(&it.key))
            .filter(|it| it.spec.target.section_name.as_deref() == section)
            .filter(|it| self.applies(it).is_ok())
            .min_by(|left, right| age(left).cmp(&age(right)))
    }

    /// The authorization policies for a service or a workload, in the order of their keys.
    pub fn policies_for<'a>(
        &'a self,
        kind: Kind,
        key: &ObjectKey,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a AuthorizationPolicy)> + use<'a> {
        self.links()
            .referrers_of(Kind::AuthorizationPolicy, Role::Target, (kind, key))
            .filter_map(|it| self.policies.get_key_value(&it.key))
            .map(|(key, policy)| (key, &**policy))
    }

    /// Whether there is an authorization policy for a service or a workload.
    #[must_use]
    pub fn is_protected(&self, kind: Kind, key: &ObjectKey) -> bool {
        self.policies_for(kind, key).next().is_some()
    }

    /// Whether connections to a port are balanced in the kernel. In mode `auto` they are where the port is opaque and
    /// nothing attached needs the proxy.
    #[must_use]
    pub fn is_direct(&self, service: &Service, port: &Port) -> bool {
        match service.spec.mode {
            Mode::Direct => true,
            Mode::Proxy => false,
            Mode::Auto => match port.protocol {
                Protocol::Udp => true,
                Protocol::Tcp | Protocol::Tls => !self.needs_proxy(service, port),
                Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Auto => false,
            },
        }
    }

    fn needs_proxy(&self, service: &Service, port: &Port) -> bool {
        let policy = self.traffic_policy_for(Kind::Service, &service.key(), None);
        policy.is_some_and(|it| it.spec.takes_opaque_through_proxy())
            || self.has_stream_routes(service, port, &service.metadata.namespace)
            || self
                .consumers_of(&service.key())
                .into_iter()
                .any(|namespace| self.has_stream_routes(service, port, namespace))
    }

    /// Whether a namespace has routes of any kind for a port of a service.
    #[must_use]
    pub fn has_routes(&self, service: &Service, port: &Port, namespace: &str) -> bool {
        let mut http = self.routes_of::<HttpRoute>(service, port, namespace);
        let mut grpc = self.routes_of::<GrpcRoute>(service, port, namespace);
        http.next().is_some()
            || grpc.next().is_some()
            || self.has_stream_routes(service, port, namespace)
    }

    fn has_stream_routes(&self, service: &Service, port: &Port, namespace: &str) -> bool {
        let mut tcp = self.routes_of::<TcpRoute>(service, port, namespace);
        let mut tls = self.routes_of::<TlsRoute>(service, port, namespace);
        tcp.next().is_some() || tls.next().is_some()
    }

    /// The service and port behind a reference, or why there is none: what is sent there fails.
    /// Without a port in the reference the first one that is not `udp`.
    pub fn backend(
        &self,
        from: Referrer<'_>,
        backend: &Backend<'_>,
    ) -> Result<(&Arc<Service>, &Port), Problem> {
        let Some(key) = backend.service(from.namespace) else {
            let message = format!("a backend is a Service, not a {}", backend.kind);
            return Err(Problem::new("InvalidKind", message));
        };
        if from.needs_grant(&key)
            && !is_granted(&self.reference_grants, from.kind, from.namespace, &key)
        {
            let (kind, namespace) = (from.kind, from.namespace);
            let message = format!(
                "no ReferenceGrant in {} permits that a {kind} of {namespace} refers to Service {key}",
                key.namespace
            );
            return Err(Problem::new("RefNotPermitted", message));
        }
        let service = self
            .services
            .get(&key)
            .ok_or_else(|| Problem::new("BackendNotFound", format!("there is no Service {key}")))?;
        let port = service
            .spec
            .ports
            .iter()
            .filter(|it| it.protocol != Protocol::Udp)
            .find(|it| backend.port.is_none_or(|number| number == it.port));
        let port = port.ok_or_else(|| {
            let number = backend.port.map_or_else(String::new, |it| format!(" {it}"));
            let message = format!("Service {key} has no port{number} that takes connections");
            Problem::new("BackendNotFound", message)
        })?;
        match misfit(from.kind, port.protocol) {
            None => Ok((service, port)),
            Some(why) => {
                let message = format!("port {} of Service {key}: {why}", port.port);
                Err(Problem::new("UnsupportedProtocol", message))
            }
        }
    }

    /// Whether a route is attached to what one of its parent references names, or why not.
    pub fn attaches<R: Route>(&self, route: &R, parent: &ParentReference) -> Result<(), Problem> {
        let Some(key) = parent.service(&route.metadata().namespace) else {
            let kind = &parent.kind;
            let message = format!("a parent is a Service; this version attaches to no {kind}");
            return Err(Problem::new("NotSupported", message));
        };
        let service = self.services.get(&key).ok_or_else(|| {
            Problem::new("NoMatchingParent", format!("there is no Service {key}"))
        })?;
        let ports = service.spec.ports.iter().filter(|it| parent.covers(it));
        let ports: Vec<&Port> = ports.collect();
        if ports.is_empty() {
            let message = format!("Service {key} has no such port");
            return Err(Problem::new("NoMatchingParent", message));
        }
        let mut suited = ports.into_iter().filter(|it| R::suits(it.protocol));
        let Some(first) = suited.next() else {
            let message = format!(
                "no such port of Service {key} speaks what a {} routes",
                R::KIND
            );
            return Err(Problem::new("NotAllowedByListeners", message));
        };
        if service.spec.mode == Mode::Direct {
            return Err(is_direct(&key));
        }
        if !passes_proxy(service) {
            let message =
                format!("Service {key} is headless: its connections do not pass the proxy");
            return Err(Problem::new("Headless", message));
        }
        let namespace = &route.metadata().namespace;
        let rival = |port: &Port| self.rival::<R>(service, port, namespace);
        match rival(first).filter(|_| suited.all(|port| rival(port).is_some())) {
            Some((kind, rival)) => {
                let message = format!("{kind} {rival} goes before it at Service {key}");
                Err(Problem::new("Conflicted", message))
            }
            None => Ok(()),
        }
    }

    /// Whether a traffic policy has something to be for, and that something to act on, or why not. Of several that have,
    /// the oldest is in force.
    pub fn applies(&self, policy: &TrafficPolicy) -> Result<(), Problem> {
        let target = &policy.spec.target;
        let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
        let found = match target.kind {
            Kind::HttpRoute => rule_names(&self.http_routes, &key),
            Kind::GrpcRoute => rule_names(&self.grpc_routes, &key),
            _ => self.services.get(&key).map(|_| Vec::new()),
        };
        let Some(rules) = found else {
            let message = format!("there is no {} {key}", target.kind);
            return Err(Problem::new("TargetNotFound", message));
        };
        if let Some(section) = &target.section_name
            && !rules.contains(&section.as_str())
        {
            let message = format!("{} {key} has no rule {section}", target.kind);
            return Err(Problem::new("TargetNotFound", message));
        }
        let service = self.services.get(&key);
        let service = service.filter(|_| target.kind == Kind::Service);
        if service.is_some_and(|it| it.spec.mode == Mode::Direct) && policy.spec.needs_proxy() {
            return Err(is_direct(&key));
        }
        match self.idle(policy).filter(|it| it.is_all) {
            Some(idle) => Err(idle.problem()),
            None => Ok(()),
        }
    }
}

/// Who comes first when two policies have one target.
pub(super) fn age(policy: &TrafficPolicy) -> (&str, &str) {
    let metadata = &policy.metadata;
    (&metadata.creation_timestamp, &metadata.name)
}

/// Whether a service can have routes: its connections may pass the proxy.
fn passes_proxy(service: &Service) -> bool {
    service.spec.mode != Mode::Direct && service.spec.is_virtual()
}

fn is_direct(key: &ObjectKey) -> Problem {
    let message = format!(
        "Service {key} has mode direct: its connections do not pass the proxy, which this needs"
    );
    Problem::new("DirectMode", message)
}

/// Whether the namespace of `service` permits that objects of `kind` in `namespace` send to it.
#[must_use]
pub fn is_granted(
    grants: &Objects<ReferenceGrant>,
    kind: Kind,
    namespace: &str,
    service: &ObjectKey,
) -> bool {
    grants
        .range(ObjectKey::new(&service.namespace, "")..)
        .take_while(|(key, _)| key.namespace == service.namespace)
        .any(|(_, grant)| grant.spec.permits(kind, namespace, &service.name))
}

fn rule_names<'a, R: Route>(routes: &'a Objects<R>, key: &ObjectKey) -> Option<Vec<&'a str>> {
    routes.get(key).map(|route| route.rule_names())
}

//! References between objects, whatever their type: what a route is attached to, and where it sends.

use super::grpc_route::GrpcRoute;
use super::http_route::HttpRoute;
use super::object::{Kind, ObjectKey};
use super::resource::Resource;
use super::route::{
    BackendObjectReference, BackendRef, HttpBackendRef, HttpFilter, ParentReference, RouteStatus,
};
use super::service::{Port, Protocol};
use super::stream_route::{StreamRouteRule, TcpRoute, TlsRoute};
use super::traffic_policy::balancing::Failover;

/// A route of any kind.
pub trait Route: Resource {
    /// What it is attached to.
    fn parent_refs(&self) -> &[ParentReference];

    /// The services that it sends to, copies included, each with the path of its field.
    fn backends(&self) -> Vec<(String, Backend<'_>)>;

    /// The names of its rules that have one.
    fn rule_names(&self) -> Vec<&str>;

    /// Whether such routes have a meaning on a port that speaks `protocol`.
    fn suits(protocol: Protocol) -> bool;

    /// What is so with it.
    fn status(&self) -> &RouteStatus;

    /// What is so with it, to be changed.
    fn status_mut(&mut self) -> &mut RouteStatus;
}

/// A reference to a service, of any type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend<'a> {
    /// API group; empty for a Service.
    pub group: &'a str,
    /// Kind: `Service`.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its namespace; absent: that of who refers.
    pub namespace: Option<&'a str>,
    /// Its port.
    pub port: Option<u16>,
}

macro_rules! backend {
    ($($type:ty),*) => {
        $(impl<'a> From<&'a $type> for Backend<'a> {
            fn from(reference: &'a $type) -> Self {
                Self {
                    group: &reference.group,
                    kind: &reference.kind,
                    name: &reference.name,
                    namespace: reference.namespace.as_deref(),
                    port: reference.port,
                }
            }
        })*
    };
}

backend!(BackendObjectReference, HttpBackendRef, BackendRef);

impl<'a> From<&'a Failover> for Backend<'a> {
    fn from(failover: &'a Failover) -> Self {
        Self {
            group: "",
            kind: "Service",
            name: &failover.service,
            namespace: failover.namespace.as_deref(),
            port: failover.port,
        }
    }
}

/// Why objects of a kind cannot send to a port that speaks `protocol`, if so. Connections go anywhere.
#[must_use]
pub const fn misfit(kind: Kind, protocol: Protocol) -> Option<&'static str> {
    match (kind, protocol) {
        (Kind::HttpRoute | Kind::GrpcRoute, Protocol::Tls) => {
            Some("its clients speak TLS, which requests are not sent by")
        }
        (Kind::GrpcRoute, Protocol::Http) => {
            Some("it speaks HTTP/1.1, which carries no gRPC: declare grpc, http2 or auto")
        }
        _ => None,
    }
}

/// Who refers to a service.
#[derive(Clone, Copy, Debug)]
pub struct Referrer<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: &'a str,
    /// What it is attached to, if it is a route.
    pub parents: &'a [ParentReference],
}

impl<'a> Referrer<'a> {
    /// A route.
    pub fn route<R: Route>(route: &'a R) -> Self {
        Self {
            kind: R::KIND,
            namespace: &route.metadata().namespace,
            parents: route.parent_refs(),
        }
    }

    /// Whether the other namespace must have permitted that it sends to `service`. Not where that is what it is
    /// attached to: a route for the callers of its own namespace sends them no further than they go without it
    /// (GEP-1426, "Namespace boundaries").
    #[must_use]
    pub fn needs_grant(&self, service: &ObjectKey) -> bool {
        let mut parents = self.parents.iter();
        self.namespace != service.namespace && !parents.any(|it| it.names(self.namespace, service))
    }
}

impl Backend<'_> {
    /// Whether it names a Service.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.kind == "Service" && matches!(self.group, "" | "core")
    }

    /// The key of the service, as seen from `namespace`; `None` where it is none.
    #[must_use]
    pub fn service(&self, namespace: &str) -> Option<ObjectKey> {
        let namespace = self.namespace.unwrap_or(namespace);
        self.is_service()
            .then(|| ObjectKey::new(namespace, self.name))
    }
}

impl ParentReference {
    /// The key of the service, as seen from `namespace`; `None` where it is none.
    #[must_use]
    pub fn service(&self, namespace: &str) -> Option<ObjectKey> {
        let namespace = self.namespace.as_deref().unwrap_or(namespace);
        self.is_service()
            .then(|| ObjectKey::new(namespace, &self.name))
    }

    /// Whether it names `service`, as seen from `namespace`.
    #[must_use]
    pub fn names(&self, namespace: &str, service: &ObjectKey) -> bool {
        self.is_service()
            && self.name == service.name
            && self.namespace.as_deref().unwrap_or(namespace) == service.namespace
    }

    /// Whether it is for the port `port` of the service that it names.
    #[must_use]
    pub fn covers(&self, port: &Port) -> bool {
        self.section_name
            .as_ref()
            .is_none_or(|name| *name == port.name)
            && self.port.is_none_or(|number| number == port.port)
    }
}

macro_rules! route {
    ($type:ident, $field:ident, $rule:ident => $backends:expr, $protocols:pat) => {
        impl Route for $type {
            fn parent_refs(&self) -> &[ParentReference] {
                &self.spec.parent_refs
            }

            fn backends(&self) -> Vec<(String, Backend<'_>)> {
                let mut backends = Vec::new();
                for (index, $rule) in self.spec.rules.iter().enumerate() {
                    let $field = format!("spec.rules[{index}]");
                    backends.extend($backends);
                }
                backends
            }

            fn rule_names(&self) -> Vec<&str> {
                let rules = self.spec.rules.iter();
                rules.filter_map(|rule| rule.name.as_deref()).collect()
            }

            fn suits(protocol: Protocol) -> bool {
                matches!(protocol, $protocols)
            }

            fn status(&self) -> &RouteStatus {
                &self.status
            }

            fn status_mut(&mut self) -> &mut RouteStatus {
                &mut self.status
            }
        }
    };
}

route!(HttpRoute, field, rule => of_http(&field, &rule.backend_refs, &rule.filters), Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Auto);
route!(GrpcRoute, field, rule => of_http(&field, &rule.backend_refs, &rule.filters), Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Auto);
route!(TcpRoute, field, rule => of_stream(&field, rule), Protocol::Tcp | Protocol::Tls | Protocol::Auto);
route!(TlsRoute, field, rule => of_stream(&field, rule), Protocol::Tls | Protocol::Auto);

fn of_stream<'a>(field: &str, rule: &'a StreamRouteRule) -> Vec<(String, Backend<'a>)> {
    let backends = rule.backend_refs.iter().enumerate();
    backends
        .map(|(index, it)| (format!("{field}.backendRefs[{index}]"), Backend::from(it)))
        .collect()
}

fn of_http<'a>(
    field: &str,
    backends: &'a [HttpBackendRef],
    filters: &'a [HttpFilter],
) -> Vec<(String, Backend<'a>)> {
    let mut found = of_filters(field, filters);
    for (index, backend) in backends.iter().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        found.extend(of_filters(&field, &backend.filters));
        found.push((field, Backend::from(backend)));
    }
    found
}

fn of_filters<'a>(field: &str, filters: &'a [HttpFilter]) -> Vec<(String, Backend<'a>)> {
    let filters = filters.iter().enumerate();
    filters
        .filter_map(|(index, filter)| {
            let mirror = filter.request_mirror.as_ref()?;
            let field = format!("{field}.filters[{index}].requestMirror.backendRef");
            Some((field, Backend::from(&mirror.backend_ref)))
        })
        .collect()
}

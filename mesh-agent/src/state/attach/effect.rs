//! Whether a traffic policy has something to act on.

use std::borrow::Cow;

use super::Problem;
use crate::state::Snapshot;
use crate::state::links::Role;
use crate::state::object::{Kind, ObjectKey};
use crate::state::service::{Port, Protocol, Service};
use crate::state::traffic_policy::TrafficPolicy;
use crate::state::traffic_policy::scope::Scope;

/// Fields of a policy that do nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Their paths below `spec`.
    pub fields: Vec<Cow<'static, str>>,
    /// Whether nothing is left.
    pub is_all: bool,
    /// Why, for people.
    why: String,
}

impl Idle {
    /// A sentence, for people.
    #[must_use]
    pub fn message(&self) -> String {
        let fields: Vec<_> = self.fields.iter().map(|it| format!("spec.{it}")).collect();
        format!("{}: no effect, {}", fields.join(", "), self.why)
    }

    pub(super) fn problem(&self) -> Problem {
        Problem::new("NoEffect", self.message())
    }
}

impl Snapshot {
    /// The fields of a policy for a service that do nothing there, if there are such.
    #[must_use]
    pub fn idle(&self, policy: &TrafficPolicy) -> Option<Idle> {
        let target = &policy.spec.target;
        if target.kind != Kind::Service {
            return None;
        }
        let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
        let traffic = Traffic::of(self, &key, self.services.get(&key)?);
        let parts = policy.spec.parts();
        let count = parts.len();
        let idle = parts.into_iter().filter(|(_, scope)| !traffic.has(*scope));
        let fields: Vec<_> = idle.map(|(field, _)| field).collect();
        (!fields.is_empty()).then(|| Idle {
            is_all: fields.len() == count,
            why: traffic.lack(&key),
            fields,
        })
    }
}

/// What may come to a service: what there is for policies to act on.
#[derive(Clone, Debug)]
struct Traffic(Vec<Scope>);

impl Traffic {
    /// What comes to those who dial the service, and what others send on to it.
    fn of(snapshot: &Snapshot, key: &ObjectKey, service: &Service) -> Self {
        let links = snapshot.links();
        let target = (Kind::Service, key);
        let is_sent = |kind| {
            let mut routes = links.referrers_of(kind, Role::Backend, target);
            routes.next().is_some()
        };
        let takes_over = || {
            let mut policies = links.referrers_of(Kind::TrafficPolicy, Role::Failover, target);
            policies.next().is_some()
        };
        let is_dialled = service.spec.is_virtual();
        let dials = |is_it: fn(&Port) -> bool| is_dialled && service.spec.ports.iter().any(is_it);
        let has_port = service.spec.ports.iter().any(is_for_connections);
        let requests = dials(has_requests)
            || is_sent(Kind::HttpRoute)
            || is_sent(Kind::GrpcRoute)
            || takes_over();
        let opaque =
            dials(is_opaque) || is_sent(Kind::TcpRoute) || is_sent(Kind::TlsRoute) || takes_over();
        let (requests, opaque) = (has_port && requests, has_port && opaque);
        let found = [
            (Scope::Endpoints, has_port),
            (Scope::Balancing, dials(|_| true) || requests || opaque),
            (Scope::Connections, requests || opaque),
            (Scope::Opaque, opaque),
            (Scope::Requests, requests),
            (Scope::Dialled, dials(is_for_connections)),
            (Scope::DialledRequests, dials(has_requests)),
            (Scope::Dials, dials(is_for_connections)),
        ];
        let found = found.into_iter().filter(|(_, is_there)| *is_there);
        Self(found.map(|(scope, _)| scope).collect())
    }

    fn has(&self, scope: Scope) -> bool {
        self.0.contains(&scope)
    }

    /// What is missing, for people.
    fn lack(&self, key: &ObjectKey) -> String {
        match () {
            () if !self.has(Scope::Endpoints) => {
                format!("Service {key} has no port that takes connections")
            }
            () if !self.has(Scope::Connections) => {
                format!("Service {key} is headless: who dials it passes the proxy by")
            }
            () if !self.has(Scope::Dialled) => format!(
                "Service {key} is headless: for who is sent there by a route holds what is said of the Service that was dialled"
            ),
            () if self.has(Scope::Requests) => format!("every port of Service {key} speaks HTTP"),
            () => format!("no port of Service {key} speaks HTTP"),
        }
    }
}

fn is_for_connections(port: &Port) -> bool {
    port.protocol != Protocol::Udp
}

fn is_opaque(port: &Port) -> bool {
    matches!(
        port.protocol,
        Protocol::Tcp | Protocol::Tls | Protocol::Auto
    )
}

fn has_requests(port: &Port) -> bool {
    is_for_connections(port) && !matches!(port.protocol, Protocol::Tcp | Protocol::Tls)
}

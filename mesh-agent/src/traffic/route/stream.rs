//! Where opaque connections go: by the name that a TLS client asks for, or all alike.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::Timestamp;

use super::compiled;
use super::host::{self, HostPattern};
use super::split::{Split, Target};
use crate::state::object::{Kind, Metadata, ObjectKey};
use crate::state::reference::Referrer;
use crate::state::stream_route::{StreamRouteRule, TcpRoute, TlsRoute};

/// A TCP or TLS route, ready to be merged into a table.
#[derive(Clone, Debug)]
pub struct StreamRoute {
    /// What it is: a TCP route has every connection, a TLS route those that speak TLS.
    pub kind: Kind,
    /// What names it.
    pub key: ObjectKey,
    created: Timestamp,
    /// The names that it is for, of those that TLS clients ask for; none: all.
    pub hosts: Vec<HostPattern>,
    /// `NAMESPACE/ROUTE/RULE`: for logs.
    pub label: Box<str>,
    /// Who takes the connections, by weight; an absent target is a reference to what cannot take any.
    pub backends: Split<Option<Target>>,
}

impl StreamRoute {
    /// Compiles a TCP route.
    #[must_use]
    pub fn tcp(object: &TcpRoute) -> Self {
        Self::new(
            Referrer::route(object),
            &object.metadata,
            &[],
            &object.spec.rules,
        )
    }

    /// Compiles a TLS route.
    #[must_use]
    pub fn tls(object: &TlsRoute) -> Self {
        let spec = &object.spec;
        Self::new(
            Referrer::route(object),
            &object.metadata,
            &spec.hostnames,
            &spec.rules,
        )
    }

    /// Smaller goes first where two routes are for the same names.
    pub fn seniority(&self) -> impl Ord + '_ {
        (self.created, &self.key)
    }

    fn new(
        from: Referrer<'_>,
        metadata: &Metadata,
        hosts: &[String],
        rules: &[StreamRouteRule],
    ) -> Self {
        let key = ObjectKey::new(&metadata.namespace, &metadata.name);
        let rule = rules.first();
        let backends = rule.map_or(&[][..], |rule| &rule.backend_refs);
        let shares = backends
            .iter()
            .map(|backend| (compiled::target(from, &backend.into()), backend.weight));
        let name = rule.and_then(|rule| rule.name.as_deref()).unwrap_or("0");
        Self {
            kind: from.kind,
            created: compiled::created(metadata),
            hosts: hosts.iter().map(|host| HostPattern::new(host)).collect(),
            label: format!("{key}/{name}").into(),
            backends: Split::new(shares),
            key,
        }
    }
}

type Hosts = HashMap<Box<str>, Arc<StreamRoute>, RandomState>;

/// The routes for opaque connections that are attached to one port.
#[derive(Debug, Default)]
pub struct StreamTable {
    exact: Hosts,
    /// By what names end in.
    wildcard: Hosts,
    /// That of routes without names.
    any: Option<Arc<StreamRoute>>,
    routes: Vec<Arc<StreamRoute>>,
}

impl StreamTable {
    /// Merges routes. For one name the oldest holds, then the one whose namespace and name come first.
    #[must_use]
    pub fn new(mut routes: Vec<Arc<StreamRoute>>) -> Self {
        routes.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
        let mut table = Self::default();
        for route in &routes {
            if route.hosts.is_empty() {
                table.any.get_or_insert_with(|| Arc::clone(route));
            }
            for host in &route.hosts {
                let (hosts, name) = match host {
                    HostPattern::Exact(name) => (&mut table.exact, name),
                    HostPattern::Wildcard(suffix) => (&mut table.wildcard, suffix),
                };
                hosts
                    .entry(name.clone())
                    .or_insert_with(|| Arc::clone(route));
            }
        }
        table.routes = routes;
        table
    }

    /// The routes, in order of precedence.
    #[must_use]
    pub fn routes(&self) -> &[Arc<StreamRoute>] {
        &self.routes
    }

    /// Whether every connection goes where a TCP route sends it, whatever it speaks.
    #[must_use]
    pub fn has_all(&self) -> bool {
        self.any
            .as_ref()
            .is_some_and(|route| route.kind == Kind::TcpRoute)
    }

    /// Whether the name that a TLS client asks for makes a difference.
    #[must_use]
    pub fn needs_name(&self) -> bool {
        !(self.exact.is_empty() && self.wildcard.is_empty())
    }

    /// The route of a connection, by the name that its client asks for, if it speaks TLS and asks for one.
    #[must_use]
    pub fn choose(&self, name: Option<&str>) -> Option<&Arc<StreamRoute>> {
        let named = name.and_then(|name| {
            let name = host::normalise(name);
            let wildcard = || host::suffixes(&name).find_map(|it| self.wildcard.get(it));
            self.exact.get(&*name).or_else(wildcard)
        });
        named.or(self.any.as_ref())
    }
}

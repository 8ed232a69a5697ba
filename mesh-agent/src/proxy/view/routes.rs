//! Routes of service ports, compiled from a snapshot. What did not change keeps its place in memory: a change of one
//! route compiles one.

mod attached;

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use self::attached::Attached;
use super::policies::Policies;
use super::{SharedTable, Table};
use crate::proxy::policy::Policy;
use crate::state::grpc_route::GrpcRoute;
use crate::state::http_route::HttpRoute;
use crate::state::object::{Kind, Object, ObjectKey};
use crate::state::service::{Port, Service};
use crate::state::stream_route::{TcpRoute, TlsRoute};
use crate::state::{Objects, Snapshot};
use crate::traffic::route;
use crate::traffic::route::Request;
use crate::traffic::route::compiled::{CompiledRoute, Problem, Rule};
use crate::traffic::route::stream::{StreamRoute, StreamTable};

/// The routes of one service port.
#[derive(Debug)]
pub(crate) struct PortRoutes {
    /// Those of the service's namespace, for callers whose own namespace has none.
    own: Option<Arc<RouteSet>>,
    /// Those that other namespaces have for their own callers.
    consumers: Vec<(String, Arc<RouteSet>)>,
}

/// The routes that one namespace has for a service port.
#[derive(Debug)]
struct RouteSet {
    /// For requests.
    http: Option<HttpRoutes>,
    /// For opaque connections.
    streams: Option<StreamTable>,
}

/// The routes of one service port for requests.
#[derive(Debug)]
pub(crate) struct HttpRoutes {
    table: route::table::Table,
    /// In the order of the table.
    attached: Vec<Arc<Attached>>,
}

/// What was chosen for a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// The rule.
    pub(crate) rule: &'a Arc<Rule>,
    /// What holds for it.
    pub(crate) policy: &'a Arc<Policy>,
    /// Bytes of the path that a prefix has matched.
    pub(crate) prefix: Option<usize>,
    /// Bytes of the path that all paths begin with which match so: whole segments.
    pub(crate) scope: usize,
}

impl HttpRoutes {
    /// Whether any rule is for some paths only.
    pub(crate) const fn tells_paths_apart(&self) -> bool {
        self.table.tells_paths_apart()
    }

    /// The rule that a request falls under.
    pub(crate) fn choose(&self, request: &Request<'_>) -> Option<Choice<'_>> {
        let choice = self.table.choose(request)?;
        let attached = self.attached.get(choice.route_index)?;
        let levels = attached.rules.get(choice.rule_index)?;
        Some(Choice {
            rule: choice.rule,
            policy: &levels.whole,
            prefix: choice.prefix,
            scope: choice.scope,
        })
    }
}

/// An object, and what it was compiled to.
type Made<S, T, C> = SharedTable<ObjectKey, (Arc<Object<S, T>>, Arc<C>)>;

/// All routes of a view that are attached to something. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    http: SharedTable<ObjectKey, (Arc<HttpRoute>, Arc<CompiledRoute>)>,
    grpc: SharedTable<ObjectKey, (Arc<GrpcRoute>, Arc<CompiledRoute>)>,
    tcp: SharedTable<ObjectKey, (Arc<TcpRoute>, Arc<StreamRoute>)>,
    tls: SharedTable<ObjectKey, (Arc<TlsRoute>, Arc<StreamRoute>)>,
    /// By service, then kind and route.
    attached: SharedTable<ObjectKey, Table<(Kind, ObjectKey), Arc<Attached>>>,
}

/// What the routes of a port are compiled from.
pub(super) struct Sources<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) policies: &'a Policies<'a>,
    pub(super) service: &'a Service,
    pub(super) port: &'a Port,
    /// That of the service.
    pub(super) policy: &'a Arc<Policy>,
}

impl Routes {
    /// What holds for routes and rules; many are those of a service.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        let attached = self.attached.values().flat_map(|routes| routes.values());
        attached.flat_map(|it| {
            let rules = it.rules.iter();
            let rules = rules.flat_map(|levels| [&levels.policy, &levels.whole]);
            std::iter::once(&it.policy).chain(rules)
        })
    }

    /// Forgets the routes that came, changed or went.
    pub(super) fn forget_changed(&mut self, old: &Snapshot, new: &Snapshot) {
        forget_changed(&mut self.http, &old.http_routes, &new.http_routes);
        forget_changed(&mut self.grpc, &old.grpc_routes, &new.grpc_routes);
        forget_changed(&mut self.tcp, &old.tcp_routes, &new.tcp_routes);
        forget_changed(&mut self.tls, &old.tls_routes, &new.tls_routes);
    }

    /// Forgets what is attached to a service.
    pub(super) fn forget_service(&mut self, service: &ObjectKey) {
        self.attached.remove(service);
    }

    /// The routes of a port. `old` are all those of the last view, `last` what this has given then.
    pub(super) fn port(
        &mut self,
        old: &Self,
        from: &Sources<'_>,
        last: Option<&Arc<PortRoutes>>,
    ) -> Option<Arc<PortRoutes>> {
        let key = from.service.key();
        let mut consumers = Vec::new();
        for namespace in from.snapshot.consumers_of(&key) {
            let last = last.and_then(|last| last.consumer(namespace));
            if let Some(set) = self.set(old, from, namespace, last) {
                consumers.push((namespace.to_owned(), set));
            }
        }
        let last_own = last.and_then(|last| last.own.as_ref());
        let own = self.set(old, from, &key.namespace, last_own);
        if own.is_none() && consumers.is_empty() {
            return None;
        }
        let next = PortRoutes { own, consumers };
        Some(match last {
            Some(last) if last.is_same(&next) => Arc::clone(last),
            _ => Arc::new(next),
        })
    }

    /// The routes that a namespace has for a port; `last` is what this has given for the last view.
    fn set(
        &mut self,
        old: &Self,
        from: &Sources<'_>,
        namespace: &str,
        last: Option<&Arc<RouteSet>>,
    ) -> Option<Arc<RouteSet>> {
        let attached = self.attached(old, from, namespace);
        let streams = self.streams(old, from, namespace);
        if attached.is_empty() && streams.is_empty() {
            return None;
        }
        if let Some(last) = last
            && last.is_made_of(&attached, &streams)
        {
            return Some(Arc::clone(last));
        }
        let http = (!attached.is_empty()).then(|| HttpRoutes {
            table: route::table::Table::new(
                attached.iter().map(|it| Arc::clone(&it.route)).collect(),
            ),
            attached,
        });
        let streams = (!streams.is_empty()).then(|| StreamTable::new(streams));
        Some(Arc::new(RouteSet { http, streams }))
    }

    /// The routes for requests, in the order of the table.
    fn attached(&mut self, old: &Self, from: &Sources<'_>, namespace: &str) -> Vec<Arc<Attached>> {
        let (snapshot, service, port) = (from.snapshot, from.service, from.port);
        let compile_http = |it: &HttpRoute| told(CompiledRoute::http(it));
        let compile_grpc = |it: &GrpcRoute| told(CompiledRoute::grpc(it));
        let http = snapshot.routes_of::<HttpRoute>(service, port, namespace);
        let mut routes: Vec<_> = http
            .map(|object| made(&old.http, &mut self.http, object, compile_http))
            .collect();
        let grpc = snapshot.routes_of::<GrpcRoute>(service, port, namespace);
        routes.extend(grpc.map(|object| made(&old.grpc, &mut self.grpc, object, compile_grpc)));
        if routes.is_empty() {
            return Vec::new();
        }
        routes.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
        let key = service.key();
        let old = old.attached.get(&key);
        let new = self.attached.entry(key).or_default();
        let attach = |route: &Arc<CompiledRoute>| {
            let name = (route.kind, route.key.clone());
            let old = old.and_then(|old| old.get(&name));
            let attached = new.entry(name).or_insert_with(|| {
                let fresh = Attached::new(route, from.policy, from.policies, old.map(|it| &**it));
                match old {
                    Some(old) if old.is_same(&fresh) => Arc::clone(old),
                    _ => Arc::new(fresh),
                }
            });
            Arc::clone(attached)
        };
        routes.iter().map(attach).collect()
    }

    fn streams(
        &mut self,
        old: &Self,
        from: &Sources<'_>,
        namespace: &str,
    ) -> Vec<Arc<StreamRoute>> {
        let (snapshot, service, port) = (from.snapshot, from.service, from.port);
        let tls = snapshot.routes_of::<TlsRoute>(service, port, namespace);
        let mut routes: Vec<_> = tls
            .map(|object| made(&old.tls, &mut self.tls, object, StreamRoute::tls))
            .collect();
        let tcp = snapshot.routes_of::<TcpRoute>(service, port, namespace);
        routes.extend(tcp.map(|object| made(&old.tcp, &mut self.tcp, object, StreamRoute::tcp)));
        routes.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
        routes
    }
}

impl PortRoutes {
    /// Those for requests of callers in a namespace.
    pub(crate) fn http(&self, caller: &str) -> Option<&HttpRoutes> {
        self.find(caller, |set| set.http.as_ref())
    }

    /// Those for opaque connections of callers in a namespace.
    pub(crate) fn streams(&self, caller: &str) -> Option<&StreamTable> {
        self.find(caller, |set| set.streams.as_ref())
    }

    /// Callers use the routes of their own namespace and, where it has none of a kind, those of the service's.
    fn find<'a, T>(
        &'a self,
        caller: &str,
        part: impl Fn(&'a RouteSet) -> Option<&'a T>,
    ) -> Option<&'a T> {
        let consumer = self.consumer(caller).and_then(|set| part(set));
        consumer.or_else(|| self.own.as_deref().and_then(part))
    }

    fn consumer(&self, namespace: &str) -> Option<&Arc<RouteSet>> {
        let found = self.consumers.iter().find(|(it, _)| it == namespace);
        found.map(|(_, set)| set)
    }

    fn is_same(&self, other: &Self) -> bool {
        let is_same = |a: &Arc<RouteSet>, b: &Arc<RouteSet>| Arc::ptr_eq(a, b);
        let own = match (&self.own, &other.own) {
            (Some(own), Some(other)) => is_same(own, other),
            (None, None) => true,
            _ => false,
        };
        own && self.consumers.len() == other.consumers.len()
            && self
                .consumers
                .iter()
                .zip(&other.consumers)
                .all(|((name, set), (others, other))| name == others && is_same(set, other))
    }
}

impl RouteSet {
    fn is_made_of(&self, attached: &[Arc<Attached>], streams: &[Arc<StreamRoute>]) -> bool {
        let own = self.http.as_ref().map_or(&[][..], |http| &http.attached);
        let own_streams = self.streams.as_ref().map_or(&[][..], StreamTable::routes);
        are_same(own, attached) && are_same(own_streams, streams)
    }
}

fn are_same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// What an object was compiled to in this view or, if it still says the same, in the last one; else compiles it.
fn forget_changed<S, T, C>(
    made: &mut Made<S, T, C>,
    old: &Objects<Object<S, T>>,
    new: &Objects<Object<S, T>>,
) where
    S: PartialEq,
    T: PartialEq + Default,
{
    for change in old.diff(new) {
        let (DiffItem::Add(key, _)
        | DiffItem::Remove(key, _)
        | DiffItem::Update { new: (key, _), .. }) = change;
        made.remove(key);
    }
}

fn made<S: PartialEq, T: Default, C>(
    old: &Made<S, T, C>,
    new: &mut Made<S, T, C>,
    object: &Arc<Object<S, T>>,
    compile: fn(&Object<S, T>) -> C,
) -> Arc<C> {
    let key = object.key();
    if let Some((_, made)) = new.get(&key) {
        return Arc::clone(made);
    }
    let made = match old.get(&key) {
        Some((earlier, made)) if says_the_same(earlier, object) => Arc::clone(made),
        _ => Arc::new(compile(object)),
    };
    new.insert(key, (Arc::clone(object), Arc::clone(&made)));
    made
}

/// Logs what of a route cannot be honoured: its author sees only that requests fail.
fn told(route: CompiledRoute) -> CompiledRoute {
    for Problem { field, message } in &route.problems {
        tracing::warn!(kind = %route.kind, route = %route.key, %field, %message, "part of a route is not in force");
    }
    route
}

/// A write of the status alone changes nothing.
fn says_the_same<S: PartialEq, T: Default>(a: &Arc<Object<S, T>>, b: &Arc<Object<S, T>>) -> bool {
    let created = |it: &Object<S, T>| it.metadata.creation_timestamp.clone();
    Arc::ptr_eq(a, b) || (a.spec == b.spec && created(a) == created(b))
}

#[cfg(test)]
mod tests;

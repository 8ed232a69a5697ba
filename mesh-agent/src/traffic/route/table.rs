//! All routes of one service port, merged: chooses in time that does not grow with their number.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Request;
use super::compiled::{CompiledRoute, Rule};
use super::entries::Entry;
use super::host::{self, HostPattern};
use super::paths::{Builder, Found, Paths};

type Hosts<V> = HashMap<Box<str>, V, RandomState>;

/// The routes that are attached to one port.
#[derive(Debug)]
pub struct Table {
    routes: Vec<Arc<CompiledRoute>>,
    exact: Hosts<Paths>,
    /// By what names end in.
    wildcard: Hosts<Paths>,
    /// Routes without hosts.
    any: Paths,
    tells_paths_apart: bool,
}

/// What was chosen for a request.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The route.
    pub route: &'a Arc<CompiledRoute>,
    /// Its place in [`Table::routes`].
    pub route_index: usize,
    /// The rule of the route.
    pub rule: &'a Arc<Rule>,
    /// Its place in the route.
    pub rule_index: usize,
    /// Bytes of the path that a prefix has matched, without a slash at its end.
    pub prefix: Option<usize>,
    /// Bytes of the path that all paths begin with which match so: whole segments, without a slash at their end.
    pub scope: usize,
}

impl Table {
    /// Merges routes. The oldest goes first, then the one whose namespace and name come first.
    #[must_use]
    pub fn new(mut routes: Vec<Arc<CompiledRoute>>) -> Self {
        routes.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
        let mut exact = Hosts::<Builder>::default();
        let mut wildcard = Hosts::<Builder>::default();
        let mut any = Builder::default();
        for (index, route) in (0_u32..).zip(&routes) {
            for found in &route.matches {
                let add = |paths: &mut Builder| {
                    paths.add(
                        &found.path,
                        Entry {
                            route: index,
                            rule: found.rule,
                            conditions: found.conditions.clone(),
                        },
                    );
                };
                if route.hosts.is_empty() {
                    add(&mut any);
                }
                for host in &route.hosts {
                    match host {
                        HostPattern::Exact(name) => add(exact.entry(name.clone()).or_default()),
                        HostPattern::Wildcard(suffix) => {
                            add(wildcard.entry(suffix.clone()).or_default());
                        }
                    }
                }
            }
        }
        let finish = |hosts: Hosts<Builder>| {
            let hosts = hosts.into_iter();
            hosts.map(|(host, paths)| (host, paths.finish())).collect()
        };
        Self {
            exact: finish(exact),
            wildcard: finish(wildcard),
            any: any.finish(),
            tells_paths_apart: routes.iter().any(|route| {
                let mut matches = route.matches.iter();
                matches.any(|found| !found.path.is_everything())
            }),
            routes,
        }
    }

    /// The routes, in order of precedence.
    #[must_use]
    pub fn routes(&self) -> &[Arc<CompiledRoute>] {
        &self.routes
    }

    /// Whether any match is for some paths only.
    #[must_use]
    pub const fn tells_paths_apart(&self) -> bool {
        self.tells_paths_apart
    }

    /// The rule that a request falls under.
    #[must_use]
    pub fn choose(&self, request: &Request<'_>) -> Option<Choice<'_>> {
        let Found {
            entry,
            prefix,
            scope,
        } = self.find(request)?;
        let route_index = usize::try_from(entry.route).ok()?;
        let rule_index = usize::try_from(entry.rule).ok()?;
        let route = self.routes.get(route_index)?;
        Some(Choice {
            route,
            route_index,
            rule: route.rules.get(rule_index)?,
            rule_index,
            prefix,
            scope,
        })
    }

    fn find(&self, request: &Request<'_>) -> Option<Found<'_>> {
        if let Some(named) = request.host
            && named.len() <= MAX_HOST
            && !(self.exact.is_empty() && self.wildcard.is_empty())
        {
            let named = host::normalise(named);
            let exact = self.exact.get(&*named);
            if let Some(found) = exact.and_then(|paths| paths.find(request)) {
                return Some(found);
            }
            if !self.wildcard.is_empty() {
                let found = host::suffixes(&named)
                    .filter_map(|suffix| self.wildcard.get(suffix))
                    .find_map(|paths| paths.find(request));
                if found.is_some() {
                    return found;
                }
            }
        }
        self.any.find(request)
    }
}

/// Longest name that can be that of a host, with the dot of the root (RFC 1035, 2.3.4).
const MAX_HOST: usize = 254;

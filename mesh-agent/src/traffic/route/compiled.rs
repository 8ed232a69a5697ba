//! One route, compiled alone: what is wrong with it hurts nobody else.

use std::sync::Arc;

use jiff::Timestamp;

use super::condition::Conditions;
use super::filter::{self, Filters};
use super::host::HostPattern;
use super::matches::{PathMatch, grpc_match, http_match};
use super::split::{Split, Stranger, Target};
use crate::state::grpc_route::{GrpcRoute, GrpcRouteMatch, GrpcRouteRule};
use crate::state::http_route::{
    HttpRoute, HttpRouteMatch, HttpRouteRetry, HttpRouteRule, HttpRouteTimeouts, PathMatchType,
};
use crate::state::object::{Kind, Metadata, ObjectKey};
use crate::state::reference::{Backend as Reference, Referrer};
use crate::state::route::{HttpBackendRef, SessionPersistence};
use crate::traffic::balance::hash;
use crate::traffic::session::Session;

/// An HTTP or gRPC route, ready to be merged into a table.
#[derive(Clone, Debug)]
pub struct CompiledRoute {
    /// `HTTPRoute` or `GRPCRoute`.
    pub kind: Kind,
    /// What names it.
    pub key: ObjectKey,
    created: Timestamp,
    /// Hosts that it is for; none: all.
    pub hosts: Vec<HostPattern>,
    /// What happens to the requests that match.
    pub rules: Vec<Arc<Rule>>,
    /// Which requests do, in the order in which they are written.
    pub(super) matches: Vec<Match>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// Something in a route that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a path into the object.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// What happens to requests that match.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name in the route.
    pub name: Option<String>,
    /// `NAMESPACE/ROUTE/RULE`, the rule by its name or else its number from 0: for logs.
    pub label: Box<str>,
    /// What is done to requests and responses.
    pub filters: Option<Box<Filters>>,
    /// Who answers, by weight.
    pub backends: Split<Arc<Backend>>,
    /// Its deadlines.
    pub timeouts: Option<HttpRouteTimeouts>,
    /// What it tries again.
    pub retry: Option<HttpRouteRetry>,
    /// How clients stay with an endpoint.
    pub session: Option<Arc<Session>>,
    /// A filter of it cannot be honoured: its requests fail, as the Gateway API wants it.
    pub is_broken: bool,
}

/// A share of the requests of a rule.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Who answers; absent: a reference to what cannot answer.
    pub target: Option<Target>,
    /// What is done to this share only, after the filters of the rule.
    pub filters: Option<Box<Filters>>,
    /// A filter of it cannot be honoured.
    pub is_broken: bool,
}

/// Requests that fall under a rule.
#[derive(Clone, Debug)]
pub(super) struct Match {
    pub(super) path: PathMatch,
    pub(super) conditions: Option<Arc<Conditions>>,
    pub(super) rule: u32,
}

impl CompiledRoute {
    /// Compiles an HTTP route.
    #[must_use]
    pub fn http(object: &HttpRoute) -> Self {
        let hosts = &object.spec.hostnames;
        let mut compiler = Compiler::new(Referrer::route(object), &object.metadata, hosts);
        for (index, rule) in object.spec.rules.iter().enumerate() {
            compiler.http_rule(index, rule);
        }
        compiler.route
    }

    /// Compiles a gRPC route.
    #[must_use]
    pub fn grpc(object: &GrpcRoute) -> Self {
        let hosts = &object.spec.hostnames;
        let mut compiler = Compiler::new(Referrer::route(object), &object.metadata, hosts);
        for (index, rule) in object.spec.rules.iter().enumerate() {
            compiler.grpc_rule(index, rule);
        }
        compiler.route
    }

    /// Smaller goes first where two routes are equal otherwise.
    pub fn seniority(&self) -> impl Ord + '_ {
        (self.created, &self.key, self.kind)
    }
}

/// When an object was made; one whose time cannot be read is the youngest.
pub(super) fn created(metadata: &Metadata) -> Timestamp {
    metadata
        .creation_timestamp
        .parse()
        .unwrap_or(Timestamp::MAX)
}

/// A route on its way.
struct Compiler<'a> {
    from: Referrer<'a>,
    route: CompiledRoute,
}

impl<'a> Compiler<'a> {
    fn new(from: Referrer<'a>, metadata: &Metadata, hosts: &[String]) -> Self {
        Self {
            from,
            route: CompiledRoute {
                kind: from.kind,
                key: ObjectKey::new(&metadata.namespace, &metadata.name),
                created: created(metadata),
                hosts: hosts.iter().map(|host| HostPattern::new(host)).collect(),
                rules: Vec::new(),
                matches: Vec::new(),
                problems: Vec::new(),
            },
        }
    }

    fn http_rule(&mut self, index: usize, rule: &HttpRouteRule) {
        let has_prefix = rule.matches.iter().all(|it| {
            it.path
                .as_ref()
                .is_none_or(|path| path.kind == PathMatchType::PathPrefix)
        });
        let compiled = Rule {
            timeouts: rule.timeouts,
            retry: rule.retry.clone(),
            ..self.rule(
                index,
                rule.name.as_deref(),
                &rule.filters,
                &rule.backend_refs,
                has_prefix,
            )
        };
        let compiled = self.with_session(compiled, rule.session_persistence.as_ref());
        let everything = [HttpRouteMatch::default()];
        let matches = if rule.matches.is_empty() {
            &everything[..]
        } else {
            &rule.matches
        };
        let results = matches.iter().map(http_match).collect();
        self.add(index, compiled, results);
    }

    fn grpc_rule(&mut self, index: usize, rule: &GrpcRouteRule) {
        let compiled = self.rule(
            index,
            rule.name.as_deref(),
            &rule.filters,
            &rule.backend_refs,
            false,
        );
        let compiled = self.with_session(compiled, rule.session_persistence.as_ref());
        let everything = [GrpcRouteMatch::default()];
        let matches = if rule.matches.is_empty() {
            &everything[..]
        } else {
            &rule.matches
        };
        let results = matches.iter().map(grpc_match).collect();
        self.add(index, compiled, results);
    }

    /// Adds a rule. One of whose matches cannot be compiled is left out as a whole: what is left of it might take
    /// requests that were meant for another.
    fn add(
        &mut self,
        index: usize,
        rule: Rule,
        matches: Vec<Result<(PathMatch, Conditions), (String, String)>>,
    ) {
        let number = u32::try_from(self.route.rules.len()).unwrap_or(u32::MAX);
        self.route.rules.push(Arc::new(rule));
        let before = self.route.matches.len();
        let mut is_whole = true;
        for (place, result) in matches.into_iter().enumerate() {
            match result {
                Ok((path, conditions)) => {
                    let conditions = (!conditions.is_empty()).then(|| Arc::new(conditions));
                    let spellings = path.normalised().into_iter().chain([path]);
                    let matches = spellings.map(|path| Match {
                        path,
                        conditions: conditions.clone(),
                        rule: number,
                    });
                    self.route.matches.extend(matches);
                }
                Err((field, message)) => {
                    is_whole = false;
                    let field = format!("spec.rules[{index}].matches[{place}].{field}");
                    self.route.problems.push(Problem { field, message });
                }
            }
        }
        if !is_whole {
            self.route.matches.truncate(before);
        }
    }

    fn rule(
        &mut self,
        index: usize,
        name: Option<&str>,
        filters: &[crate::state::route::HttpFilter],
        backends: &[HttpBackendRef],
        has_prefix: bool,
    ) -> Rule {
        let key = self.route.key.clone();
        let place = format!("spec.rules[{index}]");
        let compile = filter::Compile {
            from: self.from,
            has_prefix,
        };
        let mut problems = Vec::new();
        let mut compiled = |place: &str, filters| match compile.filters(filters) {
            Ok(filters) => (filters, false),
            Err(found) => {
                problems.extend(found.into_iter().map(|(at, message)| Problem {
                    field: format!("{place}.filters{at}"),
                    message,
                }));
                (None, true)
            }
        };
        let (own, is_broken) = compiled(&place, filters);
        let shares = backends.iter().enumerate().map(|(number, backend)| {
            let place = format!("{place}.backendRefs[{number}]");
            let (filters, is_broken) = compiled(&place, &backend.filters);
            let target = target(self.from, &backend.into());
            let share = Arc::new(Backend {
                target,
                filters,
                is_broken,
            });
            (share, backend.weight)
        });
        let backends = Split::new(shares);
        self.route.problems.append(&mut problems);
        let shown = name.map_or_else(|| index.to_string(), str::to_owned);
        Rule {
            name: name.map(str::to_owned),
            label: format!("{key}/{shown}").into(),
            filters: own,
            backends,
            timeouts: None,
            retry: None,
            session: None,
            is_broken,
        }
    }

    /// Rules must not share a session (GEP-1619), so each has a name for it that is its own.
    fn with_session(&self, rule: Rule, session: Option<&SessionPersistence>) -> Rule {
        let owner = format!("{}/{}", self.route.kind, rule.label);
        let owner = format!("{:016x}", hash::of(owner.as_bytes()));
        Rule {
            session: session
                .and_then(|session| Session::new(session, &owner))
                .map(Arc::new),
            ..rule
        }
    }
}

/// What a reference means, if it names a service.
pub(super) fn target(from: Referrer<'_>, reference: &Reference<'_>) -> Option<Target> {
    let service = reference.service(from.namespace)?;
    let stranger = from.needs_grant(&service).then(|| {
        Box::new(Stranger {
            kind: from.kind,
            namespace: from.namespace.to_owned(),
        })
    });
    Some(Target {
        service,
        port: reference.port,
        kind: from.kind,
        stranger,
    })
}

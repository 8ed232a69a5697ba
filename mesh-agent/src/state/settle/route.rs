//! Status of routes: attached to a service, and sent to services that exist.

use std::collections::BTreeSet;

use crate::state::attach::{Problem, ROUTE_KINDS};
use crate::state::draft::{Draft, upsert};
use crate::state::grpc_route::GrpcRoute;
use crate::state::http_route::HttpRoute;
use crate::state::links::{Node, Role};
use crate::state::object::{Condition, Kind, ObjectKey};
use crate::state::reference::{Referrer, Route};
use crate::state::resource::Resource as _;
use crate::state::route::{CONTROLLER, RouteParentStatus, RouteStatus};
use crate::state::store::Config;
use crate::state::stream_route::{TcpRoute, TlsRoute};
use crate::state::{Refusal, Snapshot};

use super::traffic_policy::tell_backends;
use super::{ACCEPTED, RESOLVED_REFS, Settle, condition, tell_all, tell_referrers};

macro_rules! settle_route {
    ($type:ident) => {
        impl Settle for $type {
            fn judge(&mut self, snapshot: &Snapshot, _config: &Config) -> Result<(), Refusal> {
                let judged = judge(self, snapshot);
                tell(self.status_mut(), judged);
                Ok(())
            }

            fn arrive(&self, old: Option<&Self>, draft: &mut Draft) {
                tell_referrers(draft, Role::Target, Self::KIND, &self.key());
                let versions = || old.into_iter().chain([self]);
                for route in versions() {
                    tell_rivals(route, draft);
                }
                tell_backends(versions().flat_map(backends).collect(), draft);
            }

            fn leave(&self, draft: &mut Draft) {
                tell_referrers(draft, Role::Target, Self::KIND, &self.key());
                tell_rivals(self, draft);
                tell_backends(backends(self).collect(), draft);
            }
        }
    };
}

settle_route!(HttpRoute);
settle_route!(GrpcRoute);
settle_route!(TcpRoute);
settle_route!(TlsRoute);

/// The routes of less specific kinds at the same services, before which a route goes.
fn tell_rivals<R: Route>(route: &R, draft: &mut Draft) {
    let namespace = &route.metadata().namespace;
    let parents = route.parent_refs().iter();
    let services: BTreeSet<_> = parents.filter_map(|it| it.service(namespace)).collect();
    let mut kinds = ROUTE_KINDS.into_iter();
    let _itself = kinds.find(|kind| *kind == R::KIND);
    for kind in kinds {
        for service in &services {
            let target = (Kind::Service, service);
            let rivals = draft.next.links().referrers_of(kind, Role::Parent, target);
            let rivals: Vec<Node> = rivals.cloned().collect();
            tell_all(draft, &rivals);
        }
    }
}

/// The services that a route sends to.
fn backends<R: Route>(route: &R) -> impl Iterator<Item = ObjectKey> {
    let namespace = &route.metadata().namespace;
    let backends = route.backends().into_iter();
    backends.filter_map(|(_, backend)| backend.service(namespace))
}

/// Problems that a message lists at most.
const MAX_LISTED: usize = 4;

/// What is so with a route: `Accepted` where at least one parent takes it, `ResolvedRefs` where all backends exist; and
/// the same for each parent that is a Service. Of others only those tell who attach routes to them.
pub(super) fn judge<R: Route>(route: &R, snapshot: &Snapshot) -> RouteStatus {
    let resolved = resolved(route, snapshot);
    let mut problems = Vec::new();
    let mut parents = Vec::new();
    for (index, parent) in route.parent_refs().iter().enumerate() {
        let attached = snapshot.attaches(route, parent);
        if parent.is_service() {
            let said = attached.as_ref().map(|()| ACCEPTED);
            let said = said.map_err(|problem| (problem.reason, problem.message.as_str()));
            parents.push(RouteParentStatus {
                parent_ref: parent.clone(),
                controller_name: CONTROLLER.to_owned(),
                conditions: vec![condition(route, ACCEPTED, said), resolved.clone()],
            });
        }
        problems.extend(
            attached
                .err()
                .map(|it| (format!("spec.parentRefs[{index}]"), it)),
        );
    }
    RouteStatus {
        conditions: vec![accepted(route, &problems), resolved],
        parents,
    }
}

/// Writes what was found into a status.
pub(super) fn tell(status: &mut RouteStatus, judged: RouteStatus) {
    for condition in judged.conditions {
        upsert(&mut status.conditions, condition);
    }
    status.parents = judged.parents;
}

fn accepted<R: Route>(route: &R, problems: &[(String, Problem)]) -> Condition {
    let Some((_, first)) = problems.first() else {
        return condition(route, ACCEPTED, Ok(ACCEPTED));
    };
    let message = list(problems);
    if problems.len() == route.parent_refs().len() {
        return condition(route, ACCEPTED, Err((first.reason, &message)));
    }
    // The other parents take it: it is in force there, and here stands what is not.
    let mut condition = condition(route, ACCEPTED, Ok(ACCEPTED));
    condition.message = message;
    condition
}

fn resolved<R: Route>(route: &R, snapshot: &Snapshot) -> Condition {
    let from = Referrer::route(route);
    let problems: Vec<(String, Problem)> = route
        .backends()
        .into_iter()
        .filter_map(|(field, backend)| Some((field, snapshot.backend(from, &backend).err()?)))
        .collect();
    let Some((_, first)) = problems.first() else {
        return condition(route, RESOLVED_REFS, Ok(RESOLVED_REFS));
    };
    let message = list(&problems);
    condition(route, RESOLVED_REFS, Err((first.reason, &message)))
}

/// The problems with their fields, as far as anybody would read them.
pub(super) fn list(problems: &[(String, Problem)]) -> String {
    let mut listed: Vec<String> = problems
        .iter()
        .take(MAX_LISTED)
        .map(|(field, problem)| format!("{field}: {}", problem.message))
        .collect();
    if problems.len() > MAX_LISTED {
        listed.push(format!("and {} more", problems.len() - MAX_LISTED));
    }
    listed.join("; ")
}

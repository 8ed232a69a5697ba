//! Conditions of routes: attached to a service, and sent to services that exist.

use crate::state::Snapshot;
use crate::state::attach::Problem;
use crate::state::object::Condition;
use crate::state::reference::Route;

use super::{ACCEPTED, RESOLVED_REFS, condition};

/// Problems that a message lists at most.
const MAX_LISTED: usize = 4;

/// What is so with a route: `Accepted` where at least one parent takes it, `ResolvedRefs` where all backends exist.
pub(super) fn conditions<R: Route>(route: &R, snapshot: &Snapshot) -> Vec<Condition> {
    vec![accepted(route, snapshot), resolved(route, snapshot)]
}

fn accepted<R: Route>(route: &R, snapshot: &Snapshot) -> Condition {
    let parents = route.parent_refs();
    let problems: Vec<(String, Problem)> = parents
        .iter()
        .enumerate()
        .filter_map(|(index, parent)| {
            let problem = snapshot.attaches(route, parent).err()?;
            Some((format!("spec.parentRefs[{index}]"), problem))
        })
        .collect();
    let Some((_, first)) = problems.first() else {
        return condition(route, ACCEPTED, Ok(ACCEPTED));
    };
    let message = list(&problems);
    if problems.len() == parents.len() {
        return condition(route, ACCEPTED, Err((first.reason, &message)));
    }
    // The other parents take it: it is in force there, and here stands what is not.
    let mut condition = condition(route, ACCEPTED, Ok(ACCEPTED));
    condition.message = message;
    condition
}

fn resolved<R: Route>(route: &R, snapshot: &Snapshot) -> Condition {
    let namespace = &route.metadata().namespace;
    let problems: Vec<(String, Problem)> = route
        .backends()
        .into_iter()
        .filter_map(|(field, backend)| Some((field, snapshot.backend(namespace, &backend).err()?)))
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

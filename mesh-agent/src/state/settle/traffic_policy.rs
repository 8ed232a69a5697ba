//! Conditions of traffic policies: in force for a target that exists, and naming services that exist.

use std::collections::BTreeSet;

use crate::state::Snapshot;
use crate::state::attach::{Problem, age};
use crate::state::draft::Draft;
use crate::state::endpoint::Endpoint;
use crate::state::links::{Node, Role};
use crate::state::object::{Condition, Kind, ObjectKey};
use crate::state::reference::Backend;
use crate::state::service::Protocol;
use crate::state::traffic_policy::TrafficPolicy;
use crate::state::traffic_policy::balancing::Subset;

use super::route::list;
use super::{ACCEPTED, RESOLVED_REFS, condition, tell_all, tell_referrers};

/// What is so with a policy: `Accepted` where it is in force, `ResolvedRefs` where what it names exists.
pub(super) fn conditions(policy: &TrafficPolicy, snapshot: &Snapshot) -> Vec<Condition> {
    vec![accepted(policy, snapshot), resolved(policy, snapshot)]
}

/// The policies with the same target, whose turn may have come or gone.
pub(super) fn tell_rivals(policy: &TrafficPolicy, draft: &mut Draft) {
    let target = &policy.spec.target;
    let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
    tell_referrers(draft, Role::Target, target.kind, &key);
}

/// The policies of services to which something is sent, or no longer: what they say may have an effect now, or none.
pub(super) fn tell_backends(services: BTreeSet<ObjectKey>, draft: &mut Draft) {
    for service in services {
        let target = (Kind::Service, &service);
        let links = draft.next.links();
        let policies = links.referrers_of(Kind::TrafficPolicy, Role::Target, target);
        let policies: Vec<Node> = policies.cloned().collect();
        tell_all(draft, &policies);
    }
}

/// The policies with a subset that an endpoint came to or left.
pub(super) fn tell_subsets(draft: &mut Draft, old: Option<&Endpoint>, new: Option<&Endpoint>) {
    let versions = [old, new].into_iter().flatten();
    let services: BTreeSet<ObjectKey> = versions.map(Endpoint::service_key).collect();
    let next = &draft.next;
    let mut policies = Vec::new();
    for service in &services {
        let target = (Kind::Service, service);
        let moves = |node: &&Node| {
            let policy = next.traffic_policies.get(&node.key);
            policy.into_iter().flat_map(|it| subsets(it)).any(|subset| {
                let is_in = |it: &Endpoint| it.service_key() == *service && subset.has(it);
                old.is_some_and(is_in) != new.is_some_and(is_in)
            })
        };
        let links = next.links();
        let found = links.referrers_of(Kind::TrafficPolicy, Role::Target, target);
        policies.extend(found.filter(moves).cloned());
    }
    tell_all(draft, &policies);
}

fn subsets(policy: &TrafficPolicy) -> &[Subset] {
    let balancing = policy.spec.load_balancing.as_ref();
    balancing.map_or(&[], |it| &it.subsets)
}

/// The subsets of a service that no endpoint is in. Those of a route are looked for at whatever service it sends to.
fn empty_subsets(policy: &TrafficPolicy, snapshot: &Snapshot) -> Vec<(String, Problem)> {
    let target = &policy.spec.target;
    let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
    if target.kind != Kind::Service || !snapshot.services.contains_key(&key) {
        return Vec::new();
    }
    let is_empty = |subset: &Subset| !snapshot.endpoints_of(&key).any(|it| subset.has(it));
    let numbered = subsets(policy).iter().enumerate();
    let empty = numbered.filter(|(_, subset)| is_empty(subset));
    empty
        .map(|(index, subset)| {
            let field = format!("spec.loadBalancing.subsets[{index}]");
            let message = format!("no endpoint of Service {key} has {subset}");
            let reason = "EndpointNotFound";
            (field, Problem { reason, message })
        })
        .collect()
}

/// The services that take over.
pub(super) fn failover(policy: &TrafficPolicy) -> impl Iterator<Item = ObjectKey> {
    let namespace = &policy.metadata.namespace;
    let balancing = policy.spec.load_balancing.iter();
    let failover = balancing.flat_map(|it| &it.failover);
    failover.filter_map(|it| Backend::from(it).service(namespace))
}

fn accepted(policy: &TrafficPolicy, snapshot: &Snapshot) -> Condition {
    if let Err(problem) = snapshot.applies(policy) {
        return condition(policy, ACCEPTED, Err((problem.reason, &problem.message)));
    }
    let target = &policy.spec.target;
    let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
    let winner = snapshot.traffic_policy_for(target.kind, &key, target.section_name.as_deref());
    match winner {
        Some(winner)
            if winner.metadata.name != policy.metadata.name && age(winner) < age(policy) =>
        {
            let message = format!(
                "TrafficPolicy {} is older and has the same target",
                winner.key()
            );
            condition(policy, ACCEPTED, Err(("Conflicted", &message)))
        }
        _ => {
            let idle = snapshot.idle(policy);
            Condition {
                message: idle.map(|it| it.message()).unwrap_or_default(),
                ..condition(policy, ACCEPTED, Ok(ACCEPTED))
            }
        }
    }
}

fn resolved(policy: &TrafficPolicy, snapshot: &Snapshot) -> Condition {
    let mut problems = Vec::new();
    if let Err(problem) = snapshot.applies(policy)
        && problem.reason == "TargetNotFound"
    {
        problems.push(("spec.target".to_owned(), problem));
    }
    problems.extend(port_of_check(policy, snapshot));
    let failover = policy
        .spec
        .load_balancing
        .iter()
        .flat_map(|it| &it.failover);
    problems.extend(failover.enumerate().filter_map(|(index, failover)| {
        let problem = snapshot.takes_over(policy, failover).err()?;
        let field = format!("spec.loadBalancing.failover[{index}]");
        Some((field, problem))
    }));
    problems.extend(empty_subsets(policy, snapshot));
    let Some((_, first)) = problems.first() else {
        return condition(policy, RESOLVED_REFS, Ok(RESOLVED_REFS));
    };
    let message = list(&problems);
    condition(policy, RESOLVED_REFS, Err((first.reason, &message)))
}

/// A port that is to be checked and that the service does not have.
fn port_of_check(policy: &TrafficPolicy, snapshot: &Snapshot) -> Option<(String, Problem)> {
    let target = &policy.spec.target;
    let name = policy.spec.health_check.as_ref()?.port.as_ref()?;
    if target.kind != Kind::Service {
        return None;
    }
    let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
    let service = snapshot.services.get(&key)?;
    let mut ports = service.spec.ports.iter();
    if ports.any(|it| it.name == *name && it.protocol != Protocol::Udp) {
        return None;
    }
    let message = format!("Service {key} has no port {name} that takes connections");
    Some((
        "spec.healthCheck.port".to_owned(),
        Problem {
            reason: "PortNotFound",
            message,
        },
    ))
}

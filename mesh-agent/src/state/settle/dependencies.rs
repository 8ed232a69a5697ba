//! Whether what a service needs exists, and whether it needs itself in the end.

use std::collections::{BTreeMap, BTreeSet};

use super::condition;
use crate::state::Snapshot;
use crate::state::draft::Draft;
use crate::state::graph::dependencies;
use crate::state::links::Role;
use crate::state::object::{Condition, Kind, ObjectKey};
use crate::state::service::Service;

/// The condition of a service with dependencies, and its reason where all is well.
const RESOLVED: &str = "DependenciesResolved";
/// Services in a cycle that are named.
const NAMED: usize = 10;

/// Fills in the condition of a service that is about to be written.
pub(super) fn judge(service: &mut Service, snapshot: &Snapshot) {
    let key = service.key();
    let needs = |it: &ObjectKey| -> Vec<ObjectKey> {
        if *it == key {
            return dependencies(service).collect();
        }
        let found = snapshot.services.get(it);
        found
            .map(|it| dependencies(it).collect())
            .unwrap_or_default()
    };
    let cycle = way_back(&key, &needs);
    let exists = |it: &ObjectKey| *it == key || snapshot.services.contains_key(it);
    let judged = judged(service, exists, cycle.as_deref());
    service.status.conditions.retain(|it| it.kind != RESOLVED);
    service.status.conditions.extend(judged);
}

/// Tells those that need a service, at whatever distance, once it came, went or needs others than `old`.
pub(super) fn tell(draft: &mut Draft, service: &ObjectKey, old: Option<&Service>) {
    let new = draft.next.services.get(service);
    if let (Some(old), Some(new)) = (old, new)
        && dependencies(old).eq(dependencies(new))
    {
        return;
    }
    let dependents = dependents(&draft.next, service);
    if dependents.is_empty() {
        return;
    }
    let cyclic = cyclic(&draft.next, &dependents, service);
    for key in dependents.iter().filter(|it| *it != service) {
        let Some(found) = draft.next.services.get(key).cloned() else {
            continue;
        };
        let needs = |it: &ObjectKey| -> Vec<ObjectKey> {
            let found = draft.next.services.get(it);
            found
                .map(|it| dependencies(it).collect())
                .unwrap_or_default()
        };
        let cycle = cyclic
            .contains(key)
            .then(|| way_back(key, &needs))
            .flatten();
        let exists = |it: &ObjectKey| draft.next.services.contains_key(it);
        if let Some(judged) = judged(&found, exists, cycle.as_deref()) {
            draft.set_condition::<Service>(key, judged);
        }
    }
}

/// Nothing where a service has no dependencies.
fn judged(
    service: &Service,
    exists: impl Fn(&ObjectKey) -> bool,
    cycle: Option<&[ObjectKey]>,
) -> Option<Condition> {
    if service.spec.dependencies.is_empty() {
        return None;
    }
    let missing: Vec<String> = dependencies(service)
        .filter(|it| !exists(it))
        .map(|it| it.to_string())
        .collect();
    if let Some(first) = missing.first() {
        let more = missing.len() - 1;
        let message = match more {
            0 => format!("there is no Service {first}"),
            _ => format!("there is no Service {first}, nor {more} more"),
        };
        let verdict = Err(("DependencyNotFound", message.as_str()));
        return Some(condition(service, RESOLVED, verdict));
    }
    let Some(cycle) = cycle else {
        return Some(condition(service, RESOLVED, Ok("Resolved")));
    };
    let named = cycle.iter().take(NAMED).map(ToString::to_string);
    let named: Vec<String> = named.collect();
    let rest = if cycle.len() > NAMED { " needs .." } else { "" };
    let message = format!(
        "it needs itself: {} needs {}{rest}",
        service.key(),
        named.join(" needs ")
    );
    let verdict = Err(("DependencyCycle", message.as_str()));
    Some(condition(service, RESOLVED, verdict))
}

/// The shortest way from a service over what it needs back to itself, without its beginning.
fn way_back(
    start: &ObjectKey,
    needs: &impl Fn(&ObjectKey) -> Vec<ObjectKey>,
) -> Option<Vec<ObjectKey>> {
    let mut came_from: BTreeMap<ObjectKey, ObjectKey> = BTreeMap::new();
    let mut next = std::collections::VecDeque::from([start.clone()]);
    while let Some(at) = next.pop_front() {
        for needed in needs(&at) {
            if needed == *start {
                let mut way = vec![start.clone()];
                let mut back = &at;
                while back != start {
                    way.push(back.clone());
                    back = came_from.get(back)?;
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(&needed) {
                came_from.insert(needed.clone(), at.clone());
                next.push_back(needed);
            }
        }
    }
    None
}

/// Whoever needs a service, directly or over others; also the service itself, where it is among them.
fn dependents(snapshot: &Snapshot, service: &ObjectKey) -> BTreeSet<ObjectKey> {
    let mut found = BTreeSet::new();
    let mut next = vec![service.clone()];
    while let Some(at) = next.pop() {
        let referrers = snapshot
            .links()
            .referrers(Role::Dependency, Kind::Service, &at);
        for it in referrers {
            if found.insert(it.key.clone()) {
                next.push(it.key.clone());
            }
        }
    }
    found
}

/// Which of `among`, with `also`, are in a cycle of them: what is left when those that need nobody, or whom nobody needs, are
/// taken away as long as there are some (Kahn, "Topological sorting of large networks", CACM 5, 1962, in both directions). What
/// lies between two cycles is left too, and is sorted out by who asks for the way back.
fn cyclic(
    snapshot: &Snapshot,
    among: &BTreeSet<ObjectKey>,
    also: &ObjectKey,
) -> BTreeSet<ObjectKey> {
    let mut left = among.clone();
    left.insert(also.clone());
    let mut edges: Vec<(ObjectKey, ObjectKey)> = Vec::new();
    for key in &left {
        let Some(service) = snapshot.services.get(key) else {
            continue;
        };
        let needed = dependencies(service).filter(|it| left.contains(it));
        edges.extend(needed.map(|it| (key.clone(), it)));
    }
    for is_forward in [true, false] {
        let mut counts: BTreeMap<ObjectKey, usize> = BTreeMap::new();
        let mut reverse: BTreeMap<ObjectKey, Vec<ObjectKey>> = BTreeMap::new();
        for edge in &edges {
            let (from, to) = edge.clone();
            let (from, to) = if is_forward { (from, to) } else { (to, from) };
            *counts.entry(from.clone()).or_default() += 1;
            reverse.entry(to).or_default().push(from);
        }
        let free = left.iter().filter(|it| !counts.contains_key(*it));
        let mut free: Vec<ObjectKey> = free.cloned().collect();
        while let Some(key) = free.pop() {
            left.remove(&key);
            for before in reverse.remove(&key).unwrap_or_default() {
                if let Some(count) = counts.get_mut(&before) {
                    *count -= 1;
                    if *count == 0 {
                        free.push(before);
                    }
                }
            }
        }
        edges.retain(|(from, to)| left.contains(from) && left.contains(to));
    }
    left
}

//! Rules of `loadBalancing`.

use std::collections::BTreeSet;

use super::some_time;
use crate::state::Refusal;
use crate::state::traffic_policy::TrafficPolicy;
use crate::state::traffic_policy::balancing::{
    Algorithm, Failover, HashOn, LoadBalancing, LocalityPreference, Subset,
};
use crate::state::validate::{MAX_VERSION, MAX_WEIGHT, bound, http, name, not_zero, route};

/// Most services that may take over.
const MAX_FAILOVER: usize = 8;
/// Most subsets.
const MAX_SUBSETS: usize = 32;
/// Longest name of a query parameter that is hashed.
const MAX_PARAMETER: usize = 256;

/// Checks `loadBalancing`.
pub(super) fn check(spec: &LoadBalancing, policy: &TrafficPolicy) -> Result<(), Refusal> {
    let field = "spec.loadBalancing";
    let hashes = matches!(
        spec.algorithm,
        Some(Algorithm::RingHash | Algorithm::Maglev)
    );
    match &spec.hash_on {
        Some(it) if hashes => hash_on(it)?,
        Some(_) => {
            return Err(Refusal::invalid(
                format!("{field}.hashOn"),
                "only for the algorithms RingHash and Maglev",
            ));
        }
        None if hashes => {
            return Err(Refusal::invalid(
                format!("{field}.hashOn"),
                "is needed for this algorithm",
            ));
        }
        None => {}
    }
    if let Some(it) = &spec.session_persistence {
        route::session(&format!("{field}.sessionPersistence"), it)?;
    }
    if let Some(it) = &spec.slow_start {
        some_time(&format!("{field}.slowStart.window"), it.window)?;
        let field = format!("{field}.slowStart.minWeightPercent");
        bound::within(&field, it.min_weight_percent, 1..=100)?;
    }
    if let Some(it) = &spec.locality {
        locality(it)?;
    }
    failover(&spec.failover, policy)?;
    subsets(&spec.subsets)?;
    bound::within_if(
        &format!("{field}.panicThreshold"),
        spec.panic_threshold,
        0..=100,
    )
}

fn hash_on(spec: &HashOn) -> Result<(), Refusal> {
    let field = "spec.loadBalancing.hashOn";
    let given = [
        ("header", spec.header.is_some()),
        ("cookie", spec.cookie.is_some()),
        ("query", spec.query.is_some()),
        ("source", spec.source.is_some()),
        ("path", spec.path.is_some()),
    ];
    bound::exactly_one(field, &given)?;
    if let Some(it) = &spec.header {
        http::token(&format!("{field}.header"), it)?;
    }
    if let Some(it) = &spec.cookie {
        http::token(&format!("{field}.cookie"), it)?;
    }
    if let Some(it) = &spec.query {
        bound::length(&format!("{field}.query"), it, 1..=MAX_PARAMETER)?;
    }
    for (name, value) in [("source", spec.source), ("path", spec.path)] {
        if value == Some(false) {
            let field = format!("{field}.{name}");
            return Err(Refusal::invalid(field, "true, or another field"));
        }
    }
    Ok(())
}

fn locality(spec: &LocalityPreference) -> Result<(), Refusal> {
    let field = "spec.loadBalancing.locality";
    if spec.prefer.is_empty() {
        return Err(Refusal::invalid(format!("{field}.prefer"), "at least one"));
    }
    if !spec.prefer.is_sorted_by(|near, far| near < far) {
        return Err(Refusal::invalid(
            format!("{field}.prefer"),
            "from near to far, each once: Node, Zone, Region",
        ));
    }
    let field = format!("{field}.minHealthyPercent");
    bound::within(&field, spec.min_healthy_percent, 1..=100)
}

fn failover(failover: &[Failover], policy: &TrafficPolicy) -> Result<(), Refusal> {
    let field = "spec.loadBalancing.failover";
    bound::at_most(field, failover, MAX_FAILOVER)?;
    let mut seen = BTreeSet::new();
    for (index, it) in failover.iter().enumerate() {
        let field = format!("{field}[{index}]");
        name::subdomain(&format!("{field}.service"), &it.service)?;
        if let Some(namespace) = &it.namespace {
            name::label(&format!("{field}.namespace"), namespace)?;
        }
        if let Some(port) = it.port {
            not_zero(&format!("{field}.port"), port)?;
        }
        let namespace = it.namespace.as_ref().unwrap_or(&policy.metadata.namespace);
        if *namespace == policy.metadata.namespace && it.service == policy.spec.target.name {
            let field = format!("{field}.service");
            return Err(Refusal::invalid(field, "another service than the target"));
        }
        if !seen.insert((namespace, &it.service, it.port)) {
            return Err(Refusal::invalid(field, "each service only once"));
        }
    }
    Ok(())
}

fn subsets(subsets: &[Subset]) -> Result<(), Refusal> {
    let field = "spec.loadBalancing.subsets";
    bound::at_most(field, subsets, MAX_SUBSETS)?;
    let mut seen = BTreeSet::new();
    for (index, it) in subsets.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if it.version.is_none() && it.labels.is_empty() {
            return Err(Refusal::invalid(field, "version or labels are needed"));
        }
        if !seen.insert((&it.version, &it.labels)) {
            return Err(Refusal::invalid(field, "each subset only once"));
        }
        if let Some(version) = &it.version {
            bound::length(&format!("{field}.version"), version, 1..=MAX_VERSION)?;
        }
        for (key, value) in &it.labels {
            let field = format!("{field}.labels.{key}");
            name::label_key(&field, key)?;
            name::label_value(&field, value)?;
        }
        bound::within(&format!("{field}.weight"), it.weight, 0..=MAX_WEIGHT)?;
    }
    if !subsets.is_empty() && subsets.iter().all(|it| it.weight == 0) {
        return Err(Refusal::invalid(field, "one of them takes requests"));
    }
    Ok(())
}

//! What policies say about a request, in the words in which they were written.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::proxy::policy::Policy;
use crate::state::report::LimitExplanation;
use crate::state::traffic_policy::TrafficPolicy;

/// Of these all levels hold.
const OF_ALL: [&str; 3] = ["rateLimits", "circuitBreaker", "faults"];
/// Of these the most specific level that says something holds.
const OF_ONE: [&str; 3] = ["retries", "hedging", "priority"];
/// These are said of services, and hold for whoever is sent to their endpoints.
const OF_SERVICE: [&str; 4] = [
    "loadBalancing",
    "healthCheck",
    "outlierDetection",
    "adaptiveConcurrency",
];

/// What holds for the rule or service that `policy` is of.
pub(super) fn of_request(policy: &Policy) -> Vec<LimitExplanation> {
    let mut found = Vec::new();
    let objects: Vec<_> = policy
        .objects()
        .map(|object| (object, written(object)))
        .collect();
    for field in OF_ALL {
        for (object, spec) in &objects {
            found.extend(said(policy, object, spec, field));
        }
    }
    for field in OF_ONE {
        if field == "retries"
            && let Some(retry) = policy.retry_of_rule()
        {
            found.push(LimitExplanation {
                field: "retry".to_owned(),
                policy: None,
                says: json(retry),
                state: None,
            });
            continue;
        }
        let mut levels = objects.iter();
        found.extend(
            levels
                .find_map(|(object, spec)| {
                    let limits = said(policy, object, spec, field);
                    (!limits.is_empty()).then_some(limits)
                })
                .into_iter()
                .flatten(),
        );
    }
    found
}

/// What the policy of a service says about its endpoints and, if the service is not the one that was asked, about
/// everything that is sent there.
pub(super) fn of_backend(policy: &Policy, is_another: bool) -> Vec<LimitExplanation> {
    let Some(object) = policy.object() else {
        return Vec::new();
    };
    let spec = written(object);
    let of_all = OF_ALL.iter().filter(|_| is_another);
    of_all
        .chain(&OF_SERVICE)
        .flat_map(|field| said(policy, object, &spec, field))
        .collect()
}

/// What one policy says in one field: each entry of a list on its own.
fn said(
    policy: &Policy,
    object: &TrafficPolicy,
    spec: &Map<String, Value>,
    field: &str,
) -> Vec<LimitExplanation> {
    let entries = match spec.get(field) {
        None => return Vec::new(),
        Some(Value::Array(entries)) => entries.clone(),
        Some(value) => vec![value.clone()],
    };
    let state = state(policy, object, field);
    let entry = |says| LimitExplanation {
        field: field.to_owned(),
        policy: Some(object.key().to_string()),
        says,
        state: state.clone(),
    };
    entries.into_iter().map(entry).collect()
}

/// How it stands now, where it has a state of its own.
fn state(policy: &Policy, object: &TrafficPolicy, field: &str) -> Option<String> {
    match field {
        "circuitBreaker" => {
            let mut guards = policy.guards.iter();
            let guard = guards.find(|guard| guard.is_of(object))?;
            let breaker = guard.breaker()?;
            Some(breaker.state().as_str().to_owned())
        }
        "adaptiveConcurrency" => {
            let limit = policy.concurrency.as_ref()?.limit();
            Some(format!("{limit} requests at a time"))
        }
        _ => None,
    }
}

fn written(object: &TrafficPolicy) -> Map<String, Value> {
    match json(&object.spec) {
        Value::Object(spec) => spec,
        _ => Map::new(),
    }
}

/// Data of the model, which JSON can hold.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

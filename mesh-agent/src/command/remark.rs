//! What is not as its author may think with an object that was taken.

use crate::state::Manifest;
use crate::state::object::{Condition, ConditionStatus};
use crate::state::source::CONFLICTED;

/// What is remarkable with this version of an object, if anything is.
pub(super) fn of(object: &Manifest) -> Option<String> {
    let generation = object.metadata().generation;
    let conditions = object.conditions().iter();
    // What the agent said of an earlier version may not be so any more.
    let current = conditions.filter(|it| it.observed_generation == generation);
    let remarks: Vec<String> = current.filter_map(of_condition).collect();
    (!remarks.is_empty()).then(|| remarks.join("; "))
}

fn of_condition(condition: &Condition) -> Option<String> {
    let Condition {
        kind,
        status,
        reason,
        message,
        observed_generation: _,
    } = condition;
    let is_bad = match status {
        ConditionStatus::True => kind == CONFLICTED,
        ConditionStatus::False => kind != CONFLICTED,
        ConditionStatus::Unknown => false,
    };
    if is_bad {
        return Some(format!("{kind} is {status:?}, {reason}: {message}"));
    }
    partly(condition).map(str::to_owned)
}

/// What is not so although the condition holds: a route is in force with some of its parents only.
pub(super) fn partly(condition: &Condition) -> Option<&str> {
    let is_partly = condition.kind == "Accepted" && condition.status == ConditionStatus::True;
    (is_partly && !condition.message.is_empty()).then_some(condition.message.as_str())
}

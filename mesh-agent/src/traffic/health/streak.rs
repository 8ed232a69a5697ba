//! What the answers to a registered check say, counted in a row as Consul counts them: `success_before_passing`,
//! `failures_before_warning`, `failures_before_critical`
//! (<https://developer.hashicorp.com/consul/docs/services/configuration/checks-configuration-reference>).

use crate::state::check::Check;
use crate::state::endpoint::HealthStatus;

/// Answers in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    good: u32,
    bad: u32,
}

impl Streak {
    /// One more answer; the word for the check, if that is decided by it.
    #[must_use]
    pub fn after(self, shown: HealthStatus, check: &Check) -> (Self, Option<HealthStatus>) {
        if shown == HealthStatus::Critical {
            let bad = self.bad.saturating_add(1);
            let streak = Self { good: 0, bad };
            let is_warning = check
                .failures_before_warning
                .is_some_and(|it| bad >= it.max(1));
            let word = if bad >= check.failures_before_critical {
                Some(HealthStatus::Critical)
            } else {
                is_warning.then_some(HealthStatus::Warning)
            };
            return (streak, word);
        }
        let good = self.good.saturating_add(1);
        let word = (good >= check.success_before_passing).then_some(shown);
        (Self { good, bad: 0 }, word)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The word after each answer: `+` good, `-` bad, of answers written the same way; `~` is a warning.
    fn story(thresholds: &Value, answers: &str) -> String {
        let mut check = json!({"id": "a", "tcp": {"address": "a:1"}});
        for (name, value) in thresholds.as_object().unwrap() {
            check[name] = value.clone();
        }
        let check: Check = serde_json::from_value(check).unwrap();
        let mut streak = Streak::default();
        let mut word = '?';
        let mut told = String::new();
        for answer in answers.chars() {
            let shown = match answer {
                '+' => HealthStatus::Passing,
                '~' => HealthStatus::Warning,
                _ => HealthStatus::Critical,
            };
            let (next, new) = streak.after(shown, &check);
            streak = next;
            word = match new {
                Some(HealthStatus::Passing) => '+',
                Some(HealthStatus::Warning) => '~',
                Some(HealthStatus::Critical) => '-',
                None => word,
            };
            told.push(word);
        }
        told
    }

    #[test]
    fn without_thresholds_each_answer_counts() {
        assert_eq!(story(&json!({}), "+-~+-"), "+-~+-");
    }

    #[test]
    fn with_thresholds_they_count_in_a_row() {
        let thresholds = json!({"successBeforePassing": 2, "failuresBeforeCritical": 3});
        assert_eq!(story(&thresholds, "+--+---"), "??????-");
        assert_eq!(story(&thresholds, "++--+---++"), "?++++++--+");
        let warned = json!({"failuresBeforeWarning": 1, "failuresBeforeCritical": 3});
        assert_eq!(story(&warned, "+--+---"), "+~~+~~-");
    }
}

//! Whether an endpoint is well, from checks in a row.

pub mod grpc;
pub mod streak;

use std::time::Duration;

use crate::state::traffic_policy::health::HealthCheck;

/// What checks have shown of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    is_well: Option<bool>,
    /// Checks in a row that say otherwise.
    against: u32,
}

impl Record {
    /// Whether it is well; absent before the first check.
    #[must_use]
    pub const fn is_well(&self) -> Option<bool> {
        self.is_well
    }

    /// A check has ended. The first of all counts at once; later as many in a row as the thresholds say.
    #[must_use]
    pub const fn checked(self, is_good: bool, spec: &HealthCheck) -> Self {
        let threshold = if is_good {
            spec.healthy_threshold
        } else {
            spec.unhealthy_threshold
        };
        match self.is_well {
            Some(is_well) if is_well == is_good => Self { against: 0, ..self },
            Some(_) if self.against + 1 < threshold => Self {
                against: self.against + 1,
                ..self
            },
            Some(_) | None => Self {
                is_well: Some(is_good),
                against: 0,
            },
        }
    }
}

/// How long to wait for the next check: the interval, shorter or longer by at most its percent of jitter. `random` is
/// any number.
#[must_use]
pub fn pause(spec: &HealthCheck, random: u32) -> Duration {
    let interval = spec.interval.get();
    let reach = interval.mul_f64(f64::from(spec.jitter_percent.min(100)) / 100.0);
    let part = f64::from(random) / f64::from(u32::MAX);
    interval.saturating_sub(reach) + reach.mul_f64(2.0 * part)
}

/// Statuses that are good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses(Vec<(u16, u16)>);

impl Statuses {
    /// Reads `200` and `200-299`. What is neither is refused before it gets here, and is left out.
    #[must_use]
    pub fn parse(words: &[String]) -> Self {
        let range = |word: &String| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        };
        Self(words.iter().filter_map(range).collect())
    }

    /// Whether a status is one of them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (first..=last).contains(&&status))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> HealthCheck {
        let spec = json!({"tcp": {}, "interval": "10s", "jitterPercent": 20, "healthyThreshold": 2, "unhealthyThreshold": 3});
        serde_json::from_value(spec).unwrap()
    }

    /// What is known after each check: `+` well, `-` not, of checks written the same way.
    fn story(checks: &str) -> String {
        let spec = spec();
        let mut record = Record::default();
        let mut known = String::new();
        for check in checks.chars() {
            record = record.checked(check == '+', &spec);
            known.push(if record.is_well() == Some(true) {
                '+'
            } else {
                '-'
            });
        }
        known
    }

    #[test]
    fn the_first_check_counts_at_once() {
        assert_eq!((story("+"), story("-")), ("+".into(), "-".into()));
    }

    #[test]
    fn later_ones_count_in_a_row() {
        assert_eq!(story("+--+---"), "++++++-");
        assert_eq!(story("-+-++"), "----+");
    }

    #[test]
    fn checks_are_moved_by_at_most_the_jitter() {
        let pauses = [0, u32::MAX / 2, u32::MAX].map(|random| pause(&spec(), random).as_millis());
        assert_eq!(pauses, [8000, 10_000, 12_000]);
    }

    #[test]
    fn statuses_are_numbers_and_ranges() {
        let statuses = Statuses::parse(&["200-299".into(), "404".into(), "nonsense".into()]);
        let good = [199, 200, 250, 299, 300, 404].map(|status| statuses.contains(status));
        assert_eq!(good, [false, true, true, true, false, true]);
    }
}

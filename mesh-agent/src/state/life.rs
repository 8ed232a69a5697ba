//! How an endpoint stands: its life cycle, its checks and what people have decided, in one word, with its history.
//!
//! Pure. The store calls it after each write; the engines ask what it means for traffic.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check::{CheckStatus, OBSERVED};
use super::endpoint::{Endpoint, EndpointStatus, Health, HealthStatus, Lifecycle};

/// Changes of the word that are remembered.
pub const MAX_HISTORY: usize = 10;

/// How an endpoint stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It gets no traffic yet.
    Starting,
    /// It takes its share.
    Ready,
    /// It takes its share for warnings.
    Warning,
    /// A check has failed.
    Critical,
    /// People have taken it out.
    Maintenance,
    /// It is leaving.
    Draining,
    /// It has left: the last word of an object that was deleted.
    Gone,
}

impl Standing {
    /// Whether it serves.
    #[must_use]
    pub const fn view(self) -> View {
        match self {
            Self::Ready | Self::Warning => View::Up,
            Self::Starting | Self::Critical | Self::Maintenance | Self::Draining | Self::Gone => {
                View::Down
            }
        }
    }
}

/// Whether something serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum View {
    /// It does.
    Up,
    /// It does not.
    Down,
}

/// Whether something serves, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Availability {
    /// `UP` or `DOWN`.
    pub view: View,
    /// Since when, RFC 3339.
    pub since: String,
}

/// One change of how an endpoint stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    /// How it stood from then on.
    pub status: Standing,
    /// When, RFC 3339.
    pub at: String,
    /// Why, in a sentence.
    pub reason: String,
}

/// The worst of what checks say, with the one that says it; `None` where nobody looks.
#[must_use]
pub fn worst<'a>(checks: impl IntoIterator<Item = &'a CheckStatus>) -> Option<&'a CheckStatus> {
    // Of equals the first one counts.
    checks.into_iter().reduce(|worst, it| {
        if severity(it.status) > severity(worst.status) {
            it
        } else {
            worst
        }
    })
}

const fn severity(status: HealthStatus) -> u8 {
    match status {
        HealthStatus::Passing => 0,
        HealthStatus::Warning => 1,
        HealthStatus::Critical => 2,
    }
}

impl Endpoint {
    /// How it is told to stand by whoever registered it.
    #[must_use]
    pub fn lifecycle(&self) -> Lifecycle {
        if self.spec.draining {
            Lifecycle::Draining
        } else {
            self.spec.lifecycle
        }
    }

    /// Whether it takes new connections, as far as people say.
    #[must_use]
    pub fn is_offered(&self) -> bool {
        self.lifecycle() == Lifecycle::Ready
            && self.spec.maintenance.is_none()
            && self.spec.hostname.is_none()
    }

    /// Its share of the connections as it is now.
    #[must_use]
    pub fn weight(&self) -> u32 {
        let weights = self.spec.weights;
        let passing = weights.map_or(self.spec.weight, |it| it.passing);
        let is_warned = self
            .status
            .health
            .as_ref()
            .is_some_and(|it| it.status == HealthStatus::Warning);
        match weights.and_then(|it| it.warning) {
            Some(warning) if is_warned => warning,
            _ => passing,
        }
    }

    /// Whether a check has failed. Maintenance alone is no failure.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        let is_critical = |status: HealthStatus| status == HealthStatus::Critical;
        if self.spec.maintenance.is_some() {
            return worst(&self.status.checks).is_some_and(|it| is_critical(it.status));
        }
        let health = self.status.health.as_ref();
        health.is_some_and(|it| is_critical(it.status))
    }

    /// Whether a check of its registration has failed: not one that the agent makes by itself.
    #[must_use]
    pub fn has_failed_registered(&self) -> bool {
        let registered = self.status.checks.iter().filter(|it| it.id != OBSERVED);
        worst(registered).is_some_and(|it| it.status == HealthStatus::Critical)
    }

    /// Whether it serves. One with a `hostname` does not: the endpoints of its addresses do.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let view = self.status.availability.as_ref().map(|it| it.view);
        let is_pattern = self.spec.hostname.is_some();
        !is_pattern && view.unwrap_or_else(|| self.standing().0.view()) == View::Up
    }

    /// How it stands, and why.
    fn standing(&self) -> (Standing, String) {
        if self.lifecycle() == Lifecycle::Draining {
            return (Standing::Draining, "it is leaving".to_owned());
        }
        if let Some(maintenance) = &self.spec.maintenance {
            return (Standing::Maintenance, maintenance.reason.clone());
        }
        if self.lifecycle() == Lifecycle::Starting {
            return (Standing::Starting, "it is starting".to_owned());
        }
        let Some(worst) = worst(&self.status.checks) else {
            return (Standing::Ready, "nothing speaks against it".to_owned());
        };
        let standing = match worst.status {
            HealthStatus::Passing => return (Standing::Ready, "all checks pass".to_owned()),
            HealthStatus::Warning => Standing::Warning,
            HealthStatus::Critical => Standing::Critical,
        };
        let reason = match worst.output.lines().next() {
            Some(line) if !line.is_empty() => format!("{}: {line}", worst.id),
            _ => worst.id.clone(),
        };
        (standing, reason)
    }

    /// Brings the checks of the status in line with those of the spec, and what follows from them: health, standing
    /// and history.
    pub(super) fn stand(&mut self, now: &str) {
        let old = std::mem::take(&mut self.status.checks);
        let find = |id: &str| old.iter().find(|it| it.id == id).cloned();
        let registered = self.spec.checks.iter();
        let mut checks: Vec<CheckStatus> = registered
            .map(|it| find(&it.id).unwrap_or_else(|| it.beginning(now)))
            .collect();
        checks.extend(find(OBSERVED));
        self.status.checks = checks;
        self.status.health = self.health(now);
        let (standing, reason) = self.standing();
        self.status.stands(standing, reason, now);
    }

    /// What all checks say together; in maintenance it is critical, as people have decided.
    fn health(&self, now: &str) -> Option<Health> {
        let (status, output) = match (&self.spec.maintenance, worst(&self.status.checks)) {
            (Some(maintenance), _) => (HealthStatus::Critical, maintenance.reason.clone()),
            (None, Some(worst)) => (worst.status, worst.output.clone()),
            (None, None) => return None,
        };
        let old = self.status.health.as_ref();
        let since = old
            .filter(|old| old.status == status)
            .map_or_else(|| now.to_owned(), |old| old.since.clone());
        Some(Health {
            status,
            since,
            output,
        })
    }
}

impl EndpointStatus {
    /// Remembers how it stands, if that is new.
    pub(super) fn stands(&mut self, status: Standing, reason: String, now: &str) {
        if self.history.last().is_some_and(|it| it.status == status) {
            return;
        }
        let view = status.view();
        if self.availability.as_ref().is_none_or(|it| it.view != view) {
            self.availability = Some(Availability {
                view,
                since: now.to_owned(),
            });
        }
        self.history.push(Event {
            status,
            at: now.to_owned(),
            reason,
        });
        let excess = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..excess);
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        self.history.last().map(|it| it.status)
    }
}

/// The annotation of a service that was made for a registration, and goes with the last endpoint.
pub const MADE_FOR_ENDPOINTS: &str = "mesh.dev/made-for-endpoints";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoint(spec: &Value) -> Endpoint {
        let mut whole = json!({"service": "web", "address": "10.0.0.3"});
        for (name, value) in spec.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let object = json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "Endpoint",
            "metadata": {"name": "web-1", "namespace": "shop"}, "spec": whole});
        serde_json::from_value(object).unwrap()
    }

    fn says(endpoint: &mut Endpoint, id: &str, status: HealthStatus) {
        endpoint.status.checks.retain(|it| it.id != id);
        endpoint.status.checks.push(CheckStatus {
            id: id.to_owned(),
            status,
            output: format!("{id} says so"),
            since: String::new(),
        });
        endpoint.stand("later");
    }

    #[test]
    fn the_worst_check_decides_and_says_why() {
        let mut endpoint = endpoint(&json!({"checks": [
            {"id": "a", "ttl": "10s"}, {"id": "b", "ttl": "10s", "initialStatus": "passing"}]}));
        endpoint.stand("now");
        assert_eq!(endpoint.status.standing(), Some(Standing::Critical));
        assert!(endpoint.has_failed() && !endpoint.is_up());
        says(&mut endpoint, "a", HealthStatus::Passing);
        assert_eq!(endpoint.status.standing(), Some(Standing::Ready));
        says(&mut endpoint, OBSERVED, HealthStatus::Critical);
        assert!(endpoint.has_failed() && !endpoint.has_failed_registered());
        says(&mut endpoint, "b", HealthStatus::Warning);
        says(&mut endpoint, OBSERVED, HealthStatus::Passing);
        let health = endpoint.status.health.as_ref().unwrap();
        assert_eq!(health.status, HealthStatus::Warning);
        assert_eq!(health.output, "b says so");
        let reasons: Vec<&str> = endpoint
            .status
            .history
            .iter()
            .map(|it| it.reason.as_str())
            .collect();
        assert_eq!(
            reasons,
            [
                "a",
                "all checks pass",
                "mesh:observed: mesh:observed says so",
                "b: b says so"
            ]
        );
    }

    #[test]
    fn people_come_before_checks() {
        let standing = |spec: Value| {
            let mut endpoint = endpoint(&spec);
            endpoint.stand("now");
            (endpoint.status.standing().unwrap(), endpoint.is_offered())
        };
        assert_eq!(standing(json!({})), (Standing::Ready, true));
        assert_eq!(
            standing(json!({"lifecycle": "starting"})),
            (Standing::Starting, false)
        );
        let maintenance = json!({"maintenance": {"reason": "new disk"}, "lifecycle": "starting"});
        assert_eq!(standing(maintenance), (Standing::Maintenance, false));
        let draining = json!({"draining": true, "maintenance": {"reason": "new disk"}});
        assert_eq!(standing(draining), (Standing::Draining, false));
    }

    #[test]
    fn maintenance_is_critical_to_the_eye_and_no_failure() {
        let mut endpoint = endpoint(&json!({"maintenance": {"reason": "new disk"}}));
        endpoint.stand("now");
        let health = endpoint.status.health.as_ref().unwrap();
        assert_eq!(
            (health.status, health.output.as_str()),
            (HealthStatus::Critical, "new disk")
        );
        assert!(!endpoint.has_failed());
    }

    #[test]
    fn the_weight_follows_the_status() {
        let mut endpoint = endpoint(&json!({"weights": {"passing": 10, "warning": 2},
            "checks": [{"id": "a", "ttl": "10s"}]}));
        says(&mut endpoint, "a", HealthStatus::Passing);
        assert_eq!(endpoint.weight(), 10);
        says(&mut endpoint, "a", HealthStatus::Warning);
        assert_eq!(endpoint.weight(), 2);
        endpoint.spec.weights = None;
        assert_eq!(endpoint.weight(), 1);
    }

    #[test]
    fn one_with_a_name_instead_of_an_address_does_not_serve() {
        let mut endpoint = endpoint(&json!({}));
        endpoint.stand("now");
        assert!(endpoint.is_up());
        endpoint.spec.hostname = Some("api.example.com".to_owned());
        endpoint.stand("later");
        assert!(!endpoint.is_up());
    }

    #[test]
    fn a_check_that_is_registered_no_more_is_forgotten() {
        let mut endpoint = endpoint(&json!({"checks": [{"id": "a", "ttl": "10s"}]}));
        says(&mut endpoint, "a", HealthStatus::Critical);
        endpoint.spec.checks.clear();
        endpoint.stand("later");
        assert!(endpoint.status.checks.is_empty() && endpoint.status.health.is_none());
        assert!(endpoint.is_up());
    }

    #[test]
    fn history_is_bounded_and_remembers_changes_only() {
        let mut status = EndpointStatus::default();
        for number in 0..30 {
            let standing = if number % 2 == 0 {
                Standing::Ready
            } else {
                Standing::Warning
            };
            status.stands(standing, String::new(), &number.to_string());
            status.stands(standing, String::new(), "again");
        }
        assert_eq!(status.history.len(), MAX_HISTORY);
        assert_eq!(status.history.last().unwrap().at, "29");
        assert_eq!(status.availability.unwrap().since, "0");
    }
}

//! Faults for testing: which requests are delayed, and which fail.

use std::time::Duration;

use http::HeaderName;
use http::header;

use crate::state::route::NameMatch;
use crate::state::traffic_policy::resilience::grpc_failure;
use crate::state::traffic_policy::shaping::{self, FaultSource};
use crate::traffic::fields::Fields;
use crate::traffic::route::text::TextMatch;

/// Faults of one target, in order.
#[derive(Clone, Debug, Default)]
pub struct Faults(Vec<Fault>);

#[derive(Clone, Debug)]
struct Fault {
    headers: Vec<(HeaderName, TextMatch)>,
    sources: Vec<FaultSource>,
    delay: Option<(Duration, u32)>,
    abort: Option<(Abort, u32)>,
}

/// How a request is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// With a status of HTTP.
    Status(u16),
    /// With a code of gRPC, 1 to 16.
    Grpc(u8),
}

/// What is done to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// How long it waits; zero: not at all.
    pub delay: Duration,
    /// How it fails after that.
    pub abort: Option<Abort>,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Namespace of its identity.
    pub namespace: &'a str,
    /// Service account of its identity.
    pub service_account: &'a str,
    /// Name of the workload.
    pub workload: &'a str,
}

impl Faults {
    /// Compiles the faults of a policy. What cannot be compiled was refused before it got here, and is left out: a
    /// fault that is not injected does no harm.
    #[must_use]
    pub fn compile(faults: &[shaping::Fault]) -> Self {
        Self(faults.iter().filter_map(Fault::compile).collect())
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is done to a request. Every fault that matches draws for itself: delays add up, the first abort holds.
    /// `random` gives numbers that are evenly distributed.
    pub fn draw(
        &self,
        fields: &Fields<'_>,
        source: &Source<'_>,
        mut random: impl FnMut() -> u32,
    ) -> Injection {
        let mut injection = Injection::default();
        for fault in self.0.iter().filter(|it| it.matches(fields, source)) {
            if let Some((delay, percent)) = fault.delay
                && is_drawn(percent, random())
            {
                injection.delay = injection.delay.saturating_add(delay);
            }
            if let Some((abort, percent)) = fault.abort
                && injection.abort.is_none()
                && is_drawn(percent, random())
            {
                injection.abort = Some(abort);
            }
        }
        injection
    }
}

impl Fault {
    fn compile(from: &shaping::Fault) -> Option<Self> {
        let headers: Option<Vec<_>> = from.headers.iter().map(compile_header).collect();
        let abort = match &from.abort {
            None => None,
            Some(abort) => {
                let how = match (abort.status, &abort.grpc) {
                    (Some(status), None) => Abort::Status(status),
                    (None, Some(name)) => Abort::Grpc(grpc_failure(name)?),
                    _ => return None,
                };
                Some((how, abort.percent))
            }
        };
        Some(Self {
            headers: headers?,
            sources: from.sources.clone(),
            delay: from.delay.map(|it| (it.fixed.get(), it.percent)),
            abort,
        })
    }

    fn matches(&self, fields: &Fields<'_>, source: &Source<'_>) -> bool {
        let from = self.sources.is_empty() || self.sources.iter().any(|it| is_from(it, source));
        let mut headers = self.headers.iter();
        from && headers.all(|(name, wanted)| {
            fields
                .get(name)
                .is_some_and(|value| wanted.is_match(&value))
        })
    }
}

fn compile_header(from: &NameMatch) -> Option<(HeaderName, TextMatch)> {
    let name = HeaderName::try_from(&from.name).ok()?;
    let wanted = TextMatch::new(from.kind, &from.value).ok()?;
    // Hosts are compared in their one spelling.
    let is_host = name == header::HOST;
    let wanted = if is_host {
        wanted.in_small_letters()
    } else {
        wanted
    };
    Some((name, wanted))
}

fn is_from(wanted: &FaultSource, source: &Source<'_>) -> bool {
    let is = |wanted: &Option<String>, it: &str| wanted.as_ref().is_none_or(|wanted| wanted == it);
    is(&wanted.namespace, source.namespace)
        && is(&wanted.service_account, source.service_account)
        && is(&wanted.workload, source.workload)
}

/// Whether `random` falls into the first `percent` of a hundred equal parts.
fn is_drawn(percent: u32, random: u32) -> bool {
    u64::from(random) * 100 < u64::from(percent) << 32
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::{Value, json};

    use super::*;

    const CLIENT: Source<'_> = Source {
        namespace: "shop",
        service_account: "buyer",
        workload: "client-1",
    };

    fn faults(spec: Value) -> Faults {
        let parsed: Vec<shaping::Fault> = serde_json::from_value(spec).unwrap();
        Faults::compile(&parsed)
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    fn of(headers: &HeaderMap) -> Fields<'_> {
        Fields {
            headers,
            authority: None,
        }
    }

    #[test]
    fn the_share_of_requests_is_as_told() {
        let faults = faults(json!([
            {"delay": {"fixed": "2s", "percent": 30}, "abort": {"status": 503, "percent": 10}},
        ]));
        let (mut delayed, mut aborted) = (0, 0);
        // Evenly distributed, and the two draws of a request independent of each other.
        for index in 0..10_000_u32 {
            let mut draws = [index % 100, index / 100]
                .map(|it| it * (u32::MAX / 100))
                .into_iter();
            let headers = HeaderMap::new();
            let injection = faults.draw(&of(&headers), &CLIENT, || draws.next().unwrap());
            delayed += u32::from(injection.delay == Duration::from_secs(2));
            aborted += u32::from(injection.abort == Some(Abort::Status(503)));
        }
        assert!(delayed.abs_diff(3000) <= 100 && aborted.abs_diff(1000) <= 100);
    }

    #[test]
    fn none_and_all_are_exact() {
        for random in [0, 1, u32::MAX / 2, u32::MAX] {
            assert!(!is_drawn(0, random) && is_drawn(100, random));
        }
    }

    #[test]
    fn only_who_and_what_matches_is_touched() {
        let faults = faults(json!([{
            "headers": [{"name": "X-Test", "value": "yes"}, {"name": "x-user", "type": "RegularExpression", "value": "a|b+"}],
            "sources": [{"workload": "other"}, {"namespace": "shop", "serviceAccount": "buyer"}],
            "abort": {"grpc": "UNAVAILABLE"},
        }]));
        let mut matching = headers("x-test", "yes");
        matching.insert("x-user", "bbb".parse().unwrap());
        let touched = |headers: &HeaderMap, source| faults.draw(&of(headers), &source, || 0).abort;
        assert_eq!(touched(&matching, CLIENT), Some(Abort::Grpc(14)));
        let elsewhere = Source {
            namespace: "bank",
            ..CLIENT
        };
        assert_eq!(touched(&matching, elsewhere), None);
        let named = Source {
            workload: "other",
            ..elsewhere
        };
        assert!(touched(&matching, named).is_some());
        assert_eq!(touched(&headers("x-test", "yes"), CLIENT), None);
        matching.insert("x-user", "ab".parse().unwrap());
        assert_eq!(touched(&matching, CLIENT), None);
    }

    #[test]
    fn a_host_is_what_the_request_names_in_whatever_letters() {
        let host = json!({"name": "Host", "value": "Web.Shop:80"});
        let faults = faults(json!([{"headers": [host], "abort": {"status": 503}}]));
        let headers = HeaderMap::new();
        for (authority, is_touched) in [("web.shop:80", true), ("web.shop", false)] {
            let fields = Fields {
                authority: Some(authority),
                ..of(&headers)
            };
            let abort = faults.draw(&fields, &CLIENT, || 0).abort;
            assert_eq!(abort.is_some(), is_touched, "{authority}");
        }
    }

    #[test]
    fn delays_add_up_and_the_first_abort_holds() {
        let faults = faults(json!([
            {"delay": {"fixed": "1s"}, "abort": {"status": 500}},
            {"delay": {"fixed": "500ms"}, "abort": {"status": 501}},
        ]));
        let injection = faults.draw(&of(&HeaderMap::new()), &CLIENT, || 0);
        assert_eq!(injection.delay, Duration::from_millis(1500));
        assert_eq!(injection.abort, Some(Abort::Status(500)));
    }

    #[test]
    fn what_means_nothing_is_left_out() {
        assert!(faults(json!([{"abort": {"grpc": "OK"}}, {"abort": {}}])).is_empty());
        assert!(!faults(json!([{"abort": {"grpc": "ABORTED"}}])).is_empty());
    }
}

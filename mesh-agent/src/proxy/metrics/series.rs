//! Handles to the series of one caller and one endpoint, by outcome.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::labels::{Ends, Outcome, OutcomeKey};
use super::leases::{Lease, Leases, Refused};
use super::{Counter, Metrics};
use crate::metrics::histogram::Histogram;
use crate::net::clock;
use crate::proxy::handles::Handles;

/// The series of one caller and one endpoint.
#[derive(Debug)]
pub(crate) struct Series {
    ends: Arc<Ends>,
    metrics: Metrics,
    http: Handles<OutcomeKey, Leased<HttpSeries>>,
    tcp: Handles<OutcomeKey, Leased<TcpSeries>>,
}

/// Series of requests that went alike.
#[derive(Debug)]
pub(crate) struct HttpSeries {
    pub(crate) requests: Counter,
    pub(crate) duration_ms: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
}

/// Series of connections that went alike.
#[derive(Debug)]
pub(crate) struct TcpSeries {
    pub(crate) sent: Counter,
    pub(crate) received: Counter,
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
}

/// Series, and the right to count in them. Those are shared that are counted in without one.
#[derive(Debug)]
pub(crate) struct Leased<T> {
    series: T,
    lease: Result<Lease<Outcome>, Refused>,
}

impl<T> Deref for Leased<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.series
    }
}

impl Series {
    pub(crate) fn new(metrics: &Metrics, ends: Ends) -> Self {
        Self {
            ends: Arc::new(ends),
            metrics: metrics.clone(),
            http: Handles::default(),
            tcp: Handles::default(),
        }
    }

    /// The handles of requests that went as `key` says.
    pub(crate) fn http(&self, key: OutcomeKey) -> Arc<Leased<HttpSeries>> {
        let metrics = &self.metrics;
        self.find(&self.http, &metrics.http_leases, key, |labels| HttpSeries {
            requests: metrics.requests.get_or_create_owned(labels),
            duration_ms: metrics.durations.get_or_create_owned(labels),
            request_bytes: metrics.request_bytes.get_or_create_owned(labels),
            response_bytes: metrics.response_bytes.get_or_create_owned(labels),
        })
    }

    /// The handles of connections that went with these flags.
    pub(crate) fn tcp(&self, flags: &'static str) -> Arc<Leased<TcpSeries>> {
        let metrics = &self.metrics;
        let key = OutcomeKey {
            protocol: "tcp",
            code: 0,
            grpc: None,
            flags,
        };
        self.find(&self.tcp, &metrics.tcp_leases, key, |labels| TcpSeries {
            sent: metrics.tcp_sent.get_or_create_owned(labels),
            received: metrics.tcp_received.get_or_create_owned(labels),
            opened: metrics.tcp_opened.get_or_create_owned(labels),
            closed: metrics.tcp_closed.get_or_create_owned(labels),
        })
    }

    /// The series of an outcome, or those that all share for whom there is no room until there is.
    fn find<T>(
        &self,
        handles: &Handles<OutcomeKey, Leased<T>>,
        leases: &Arc<Leases<Outcome>>,
        key: OutcomeKey,
        make: impl Fn(&Outcome) -> T,
    ) -> Arc<Leased<T>> {
        let take = || {
            let labels = Outcome {
                ends: Arc::clone(&self.ends),
                key,
            };
            let (lease, series) = leases.take(&labels, &make)?;
            let lease = Ok(lease);
            Some(Leased { series, lease })
        };
        let found = handles.find_or_make(&key, || {
            let refused = leases.refused();
            take().unwrap_or_else(|| {
                self.metrics.dropped.inc();
                Leased {
                    series: make(&Outcome::overflow()),
                    lease: Err(refused),
                }
            })
        });
        if let Err(refused) = &found.lease
            && leases.is_worth_another_try(refused)
            && let Some(own) = take()
        {
            handles.retain(|it| *it != key);
            return handles.find_or_make(&key, || own);
        }
        found
    }
}

impl Metrics {
    /// Removes, from time to time, series in which nobody can count any more.
    pub(crate) async fn keep_tidy(&self) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep(clock::monotonic_ns());
        }
    }

    fn sweep(&self, now_ns: u64) {
        self.http_leases.sweep(now_ns, |labels| {
            self.requests.remove(labels);
            self.durations.remove(labels);
            self.request_bytes.remove(labels);
            self.response_bytes.remove(labels);
        });
        self.tcp_leases.sweep(now_ns, |labels| {
            self.tcp_sent.remove(labels);
            self.tcp_received.remove(labels);
            self.tcp_opened.remove(labels);
            self.tcp_closed.remove(labels);
        });
        self.choices.sweep(now_ns);
        self.shaping.sweep(now_ns);
    }
}

/// Time between two looks for series that are of no use.
const SWEEP: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::super::End;
    use super::super::leases::{KEEP, MAX_SERIES};
    use super::*;
    use crate::metrics::Registry;
    use crate::state::object::ObjectKey;

    fn series(metrics: &Metrics, service: &str) -> Series {
        between(metrics, "client", service)
    }

    fn between(metrics: &Metrics, caller: &str, service: &str) -> Series {
        let source = End {
            workload: caller.to_owned(),
            ..End::default()
        };
        let ends = Ends {
            source,
            service: service.to_owned(),
            ..Ends::unknown()
        };
        Series::new(metrics, ends)
    }

    fn lines(registry: &Registry, family: &str) -> Vec<String> {
        let text = registry.encode().expect("it encodes");
        let lines = text.lines().filter(|line| line.starts_with(family));
        lines.map(str::to_owned).collect()
    }

    const OPENED: &str = "istio_tcp_connections_opened_total";

    #[test]
    fn series_that_nobody_holds_go_after_a_while() {
        let mut registry = Registry::new();
        let metrics = super::super::register(&mut registry);
        let keep = u64::try_from(KEEP.as_nanos()).expect("it fits");
        let held = series(&metrics, "held");
        held.tcp("-").opened.inc();
        series(&metrics, "gone").tcp("-").opened.inc();
        metrics.sweep(1);
        metrics.sweep(keep);
        assert_eq!(lines(&registry, OPENED).len(), 2);
        metrics.sweep(keep + 1);
        let [line] = &lines(&registry, OPENED)[..] else {
            panic!("one is left");
        };
        assert!(line.contains("held") && line.ends_with(" 1"), "{line}");
    }

    #[test]
    fn what_was_shed_long_ago_is_forgotten() {
        let mut registry = Registry::new();
        let metrics = super::super::register(&mut registry);
        let keep = u64::try_from(KEEP.as_nanos()).expect("it fits");
        let key = |name| ObjectKey::new("shop", name);
        metrics.shaping.shed(&key("gone"), "timeout");
        metrics.shaping.saturated(&key("web"));
        metrics.sweep(1);
        metrics.shaping.shed(&key("there"), "timeout");
        metrics.sweep(keep);
        metrics.sweep(keep + 1);
        let [line] = &lines(&registry, "mesh_proxy_shed_total")[..] else {
            panic!("one is left");
        };
        assert!(line.contains("there") && line.ends_with(" 1"), "{line}");
        assert!(lines(&registry, "mesh_proxy_concurrency_").is_empty());
    }

    #[test]
    fn who_comes_back_in_time_counts_on() {
        let mut registry = Registry::new();
        let metrics = super::super::register(&mut registry);
        let keep = u64::try_from(KEEP.as_nanos()).expect("it fits");
        series(&metrics, "web").tcp("-").opened.inc();
        metrics.sweep(1);
        let again = series(&metrics, "web");
        again.tcp("-").opened.inc();
        metrics.sweep(2 * keep);
        metrics.sweep(4 * keep);
        again.tcp("-").opened.inc();
        let [line] = &lines(&registry, OPENED)[..] else {
            panic!("one is there");
        };
        assert!(line.ends_with(" 3"), "{line}");
    }

    #[test]
    fn those_who_are_too_many_share_a_series() {
        let mut registry = Registry::new();
        let metrics = super::super::register(&mut registry);
        let all: Vec<_> = (0..MAX_SERIES + 3)
            .map(|number| between(&metrics, &number.to_string(), "web").tcp("-"))
            .collect();
        for series in &all {
            series.opened.inc();
        }
        let written = lines(&registry, OPENED);
        assert_eq!(written.len(), MAX_SERIES + 1);
        let shared = written.iter().find(|line| line.contains("overflow"));
        assert!(shared.expect("it is there").ends_with(" 3"));
        let dropped = lines(&registry, "mesh_metrics_series_dropped_total");
        assert!(dropped[0].ends_with(" 3"), "{dropped:?}");
    }

    #[test]
    fn who_has_found_no_room_gets_it_when_there_is_some() {
        let mut registry = Registry::new();
        let metrics = super::super::register(&mut registry);
        let keep = u64::try_from(KEEP.as_nanos()).expect("it fits");
        let others: Vec<_> = (0..MAX_SERIES)
            .map(|number| between(&metrics, &number.to_string(), "web").tcp("-"))
            .collect();
        let late = series(&metrics, "late");
        late.tcp("-").opened.inc();
        drop(others);
        metrics.sweep(1);
        late.tcp("-").opened.inc();
        metrics.sweep(keep + 1);
        late.tcp("-").opened.inc();
        late.tcp("-").opened.inc();
        let written = lines(&registry, OPENED);
        let count = |what: &str| {
            let line = written.iter().find(|line| line.contains(what));
            line.and_then(|it| it.rsplit_once(' ')).map(|(_, it)| it)
        };
        assert_eq!((count("late"), count("overflow")), (Some("2"), Some("2")));
        assert_eq!(written.len(), 2);
        let dropped = lines(&registry, "mesh_metrics_series_dropped_total");
        assert!(dropped[0].ends_with(" 1"), "{dropped:?}");
    }

    #[test]
    fn one_caller_leaves_room_for_others() {
        let mut registry = Registry::new();
        let metrics = super::super::register(&mut registry);
        let greedy: Vec<_> = (0..MAX_SERIES)
            .map(|number| series(&metrics, &number.to_string()).tcp("-"))
            .collect();
        let other = between(&metrics, "other", "web").tcp("-");
        other.opened.inc();
        let written = lines(&registry, OPENED);
        assert_eq!(written.len(), MAX_SERIES / 2 + 2, "one is shared");
        let is_own = |line: &String| line.contains(r#"source_workload="other""#);
        assert!(written.iter().any(is_own));
        drop(greedy);
        // What is gone does not count any more.
        metrics.sweep(1);
        metrics.sweep(u64::MAX);
        series(&metrics, "again").tcp("-").opened.inc();
        let written = lines(&registry, OPENED);
        assert!(written.iter().any(|line| line.contains("again")));
    }
}

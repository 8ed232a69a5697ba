//! Metrics of names.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Registry;
use crate::metrics::histogram::{Histogram, SECONDS};

type Labels = [(&'static str, &'static str); 2];

/// Every family.
#[derive(Clone, Debug)]
pub struct Metrics {
    queries: Family<Labels, Counter>,
    durations: Histogram,
    /// Datagrams and connections that the kernel has not sent to the agent.
    pub(super) refused: Counter,
    /// Answers that are kept.
    cached: Gauge,
}

/// Metrics of names outside the mesh.
#[derive(Clone, Debug)]
pub struct Lookups {
    outcomes: Family<[(&'static str, &'static str); 1], Counter>,
    names: Gauge,
}

impl Lookups {
    /// Registers every family.
    pub fn register(registry: &mut Registry) -> Self {
        let lookups = Self {
            outcomes: Family::default(),
            names: Gauge::default(),
        };
        registry.register(
            "mesh_dns_lookups",
            "Look-ups of the names of endpoints by outcome",
            lookups.outcomes.clone(),
        );
        registry.register(
            "mesh_dns_hostnames",
            "Names of endpoints that are looked up",
            lookups.names.clone(),
        );
        lookups
    }

    /// Counts a look-up.
    pub(super) fn count(&self, is_found: bool) {
        let outcome = if is_found { "found" } else { "failed" };
        self.outcomes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Says how many names there are.
    pub(super) fn names(&self, count: usize) {
        self.names.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was about the mesh, and is answered.
    Mesh,
    /// It was answered as to the last who asked the same.
    Cached,
    /// The workload's resolver answered.
    Forwarded,
    /// The workload's resolver did not answer.
    Failed,
    /// Too many were under way.
    Overloaded,
}

impl Metrics {
    /// Registers every family.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            queries: Family::default(),
            durations: Histogram::new(SECONDS),
            refused: Counter::default(),
            cached: Gauge::default(),
        };
        registry.register(
            "mesh_dns_queries",
            "Questions for names by transport and by what became of them",
            metrics.queries.clone(),
        );
        registry.register(
            "mesh_dns_forward_duration_seconds",
            "How long the resolvers of workloads took, or did not answer",
            metrics.durations.clone(),
        );
        registry.register(
            "mesh_dns_refused",
            "Datagrams and connections to the agent's resolver that the kernel had not sent there",
            metrics.refused.clone(),
        );
        registry.register(
            "mesh_dns_cache_entries",
            "Answers of resolvers that are kept",
            metrics.cached.clone(),
        );
        metrics
    }

    /// Counts a question.
    pub(super) fn count(&self, transport: Transport, outcome: Outcome) {
        let transport = match transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let outcome = match outcome {
            Outcome::Mesh => "mesh",
            Outcome::Cached => "cached",
            Outcome::Forwarded => "forwarded",
            Outcome::Failed => "failed",
            Outcome::Overloaded => "overloaded",
        };
        let labels = [("transport", transport), ("outcome", outcome)];
        self.queries.get_or_create(&labels).inc();
    }

    /// Says how many answers are kept.
    pub(super) fn cached(&self, count: usize) {
        self.cached.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts how long a resolver took.
    pub(super) fn took(&self, nanoseconds: u64) {
        self.durations
            .observe(Duration::from_nanos(nanoseconds).as_secs_f64());
    }
}

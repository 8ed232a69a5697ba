//! The adaptive concurrency of a service.

use std::sync::Arc;

use crate::net::clock;
use crate::state::traffic_policy::TrafficPolicy;
use crate::state::traffic_policy::shaping::AdaptiveConcurrency;
use crate::traffic::concurrency::Concurrency;

/// What a service has found out about itself, as long as the words of its policy stay the same.
#[derive(Debug)]
pub(crate) struct Adaptive {
    spec: AdaptiveConcurrency,
    concurrency: Concurrency,
}

impl Adaptive {
    /// That of `object`, if it asks for it; `old` is what stood in its place in the last view.
    pub(crate) fn derive(object: &TrafficPolicy, old: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let spec = object.spec.adaptive_concurrency?;
        Some(match old {
            Some(old) if old.spec == spec => Arc::clone(old),
            _ => Arc::new(Self {
                concurrency: Concurrency::new(&spec, rand::random()),
                spec,
            }),
        })
    }

    /// One more request, if there is room.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Running> {
        let started_ns = clock::monotonic_ns();
        self.concurrency.enter(started_ns).then(|| Running {
            adaptive: Arc::clone(self),
            started_ns,
            is_answered: false,
        })
    }

    /// The limit at the moment.
    pub(crate) fn limit(&self) -> u32 {
        self.concurrency.limit()
    }
}

/// A request that a service has not answered yet. Dropped before that, it will not be.
///
/// What follows the head does not count: a stream that lives for hours says nothing about what the service can do.
#[derive(Debug)]
pub(crate) struct Running {
    adaptive: Arc<Adaptive>,
    started_ns: u64,
    is_answered: bool,
}

impl Running {
    /// The head of an endpoint's answer has come.
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let now_ns = clock::monotonic_ns();
        let latency = now_ns.saturating_sub(self.started_ns);
        let latency = self.is_answered.then_some(latency);
        self.adaptive
            .concurrency
            .leave(self.started_ns, now_ns, latency);
    }
}

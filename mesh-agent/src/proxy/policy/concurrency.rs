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
        self.concurrency.enter().then(|| Running {
            adaptive: Arc::clone(self),
            started_ns: clock::monotonic_ns(),
            answered_ns: None,
        })
    }

    /// The limit at the moment.
    pub(crate) fn limit(&self) -> u32 {
        self.concurrency.limit()
    }
}

/// A request under way at a service. Dropped, it has ended.
#[derive(Debug)]
pub(crate) struct Running {
    adaptive: Arc<Adaptive>,
    started_ns: u64,
    answered_ns: Option<u64>,
}

impl Running {
    /// The head of an endpoint's answer has come.
    pub(crate) fn answered(&mut self) {
        self.answered_ns = Some(clock::monotonic_ns());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let latency = self
            .answered_ns
            .map(|it| it.saturating_sub(self.started_ns));
        let now_ns = clock::monotonic_ns();
        self.adaptive
            .concurrency
            .leave(self.started_ns, now_ns, latency);
    }
}

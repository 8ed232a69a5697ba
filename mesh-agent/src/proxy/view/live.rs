//! What an endpoint remembers across views, and what is under way at it.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::{Endpoint, Workload};
use crate::net::clock;
use crate::proxy::handles::Handles;
use crate::proxy::metrics::Series;
use crate::proxy::vitals::Vitals;
use crate::traffic::balance::latency::Latency;
use crate::traffic::balance::streams::{Begun, Streams};
use crate::traffic::ejection::Terms;

/// What an endpoint remembers across views.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) address: SocketAddr,
    /// Requests whose response has not begun, and opaque connections.
    active: AtomicU32,
    /// The same, and all responses that go on.
    held: AtomicU32,
    /// Responses that have begun.
    streams: Streams,
    /// How slow it is.
    pub(crate) latency: Latency,
    /// Whether connections are offered to it: it is told to take some, and has a weight.
    is_offered: AtomicBool,
    /// Since when it takes part: it came, or came back.
    since_ns: AtomicU64,
    /// How it is.
    pub(crate) vitals: Vitals,
    pub(super) series: Handles<SeriesKey, Series>,
}

impl Live {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            active: AtomicU32::new(0),
            held: AtomicU32::new(0),
            streams: Streams::default(),
            latency: Latency::default(),
            is_offered: AtomicBool::new(false),
            since_ns: AtomicU64::new(clock::monotonic_ns()),
            vitals: Vitals::default(),
            series: Handles::default(),
        }
    }

    /// How busy it is: requests that wait for their response, opaque connections, and responses that have begun a short
    /// while ago.
    pub(crate) fn load(&self, now_ns: u64) -> u32 {
        let active = self.active.load(Ordering::Relaxed);
        active.saturating_add(self.streams.young(now_ns))
    }

    /// Whether anything is under way at it, however long it goes on.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// Since when it takes part.
    pub(crate) fn since_ns(&self) -> u64 {
        self.since_ns.load(Ordering::Relaxed)
    }

    /// Connections are offered to it now, or not.
    pub(super) fn offered(&self, is_offered: bool) {
        let was_offered = self.is_offered.swap(is_offered, Ordering::Relaxed);
        if is_offered && !was_offered {
            self.begin_again();
        }
    }

    /// Checks of the agent's own have found it well, or not.
    pub(crate) fn checked(&self, is_critical: bool) {
        if self.vitals.checked(is_critical) && !self.is_critical() {
            self.begin_again();
        }
    }

    /// The same for the checks of its registration.
    pub(crate) fn registered(&self, is_critical: bool) {
        if self.vitals.registered(is_critical) && !self.is_critical() {
            self.begin_again();
        }
    }

    /// It has accepted a connection.
    pub(crate) fn accepted(&self) {
        if self.vitals.accepted() {
            self.begin_again();
        }
    }

    /// It has answered badly; tells whether it is put aside by this. It begins again when its time is over.
    pub(crate) fn eject_outlier(&self, terms: &Terms) -> bool {
        let until = self.vitals.eject_outlier(terms);
        if let Some(until_ns) = until {
            self.since_ns.store(until_ns, Ordering::Relaxed);
        }
        until.is_some()
    }

    /// Makes it come so much earlier than it did.
    #[cfg(test)]
    pub(crate) fn age(&self, by_ns: u64) {
        self.since_ns.fetch_sub(by_ns, Ordering::Relaxed);
    }

    fn begin_again(&self) {
        self.since_ns
            .store(clock::monotonic_ns(), Ordering::Relaxed);
    }

    /// Whether it is put aside: it has refused a connection a short while ago, or has answered badly.
    pub(crate) fn is_ejected(&self) -> bool {
        self.vitals.is_ejected()
    }

    /// Whether neither checks nor its answers speak against it.
    pub(crate) fn is_well(&self) -> bool {
        !self.is_critical() && !self.is_ejected()
    }

    /// Whether checks have found it unwell.
    pub(crate) fn is_critical(&self) -> bool {
        self.vitals.is_critical()
    }
}

/// Which series a caller counts in. They are kept across views; a connection that was there before their labels have
/// changed counts in those of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeriesKey {
    /// The caller's number.
    pub(super) caller: u32,
    pub(super) caller_labels: u64,
    /// Zero where there is no endpoint.
    pub(super) endpoint_labels: u64,
}

impl SeriesKey {
    pub(super) const fn new(caller: &Workload, endpoint_labels: u64) -> Self {
        Self {
            caller: caller.number,
            caller_labels: caller.labels_id,
            endpoint_labels,
        }
    }
}

/// Stands for labels: another number for others.
pub(super) fn labels_id(labels: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    labels.hash(&mut hasher);
    hasher.finish()
}

/// One request or connection under way at an endpoint.
#[derive(Debug)]
pub(crate) struct Active {
    endpoint: Arc<Endpoint>,
    started_ns: u64,
    /// The response has begun.
    begun: Option<Begun>,
}

impl Active {
    /// Counts one more.
    pub(crate) fn new(endpoint: Arc<Endpoint>, now_ns: u64) -> Self {
        endpoint.live.active.fetch_add(1, Ordering::Relaxed);
        endpoint.live.held.fetch_add(1, Ordering::Relaxed);
        Self {
            endpoint,
            started_ns: now_ns,
            begun: None,
        }
    }

    /// The endpoint.
    pub(crate) const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// It is asked only now: that it had to wait until then says nothing about how slow it is.
    pub(crate) const fn restart(&mut self, now_ns: u64) {
        self.started_ns = now_ns;
    }

    /// When it was chosen.
    pub(crate) const fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// The response has begun: now it is known how slow the endpoint is, and what follows is a stream.
    pub(crate) fn answered(&mut self, now_ns: u64) {
        if self.begun.is_none() {
            let live = &self.endpoint.live;
            live.latency
                .observe(now_ns.saturating_sub(self.started_ns), now_ns);
            self.begun = Some(live.streams.begin(now_ns));
            live.active.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// An opaque connection stands. It counts as long as it is open.
    pub(crate) fn connected(&self, now_ns: u64) {
        let taken = now_ns.saturating_sub(self.started_ns);
        self.endpoint.live.latency.observe(taken, now_ns);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let live = &self.endpoint.live;
        live.held.fetch_sub(1, Ordering::Relaxed);
        match self.begun {
            Some(begun) => live.streams.end(begun),
            None => {
                live.active.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

//! Circuit breakers: limits, and breakers that open when answers fail. All levels hold, each with its own state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

use crate::net::clock;
use crate::state::object::{Kind, ObjectKey};
use crate::state::traffic_policy::resilience::{BreakerScope, CircuitBreaker};
use crate::state::traffic_policy::{TrafficPolicy, TrafficTarget};
use crate::traffic::breaker::{Breaker, Settings};

/// What guards one target.
#[derive(Debug)]
pub(crate) struct Guard {
    spec: CircuitBreaker,
    /// Namespace of the policy and its target.
    namespace: String,
    target: TrafficTarget,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    /// Connections; of a service only.
    room: Option<Arc<Room>>,
    /// Of the whole target, where failures are counted so.
    breaker: Option<Breaker>,
    /// How the breakers of endpoints are, where there is one for each.
    endpoints: Option<Settings>,
}

/// What a limit is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Connections to all endpoints.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests under way.
    Requests,
    /// Retries and hedges under way.
    Retries,
}

impl Limit {
    /// The word in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

impl Guard {
    /// What a policy says, if it says anything; `old` is what the last view had, kept where the words are the same.
    pub(super) fn next(object: &TrafficPolicy, old: &[Arc<Self>]) -> Option<Arc<Self>> {
        let spec = object.spec.circuit_breaker.as_ref()?;
        let target = &object.spec.target;
        let kept = old.iter().find(|old| {
            old.spec == *spec && old.target == *target && old.namespace == object.metadata.namespace
        });
        Some(kept.map_or_else(|| Arc::new(Self::new(object, spec)), Arc::clone))
    }

    fn new(object: &TrafficPolicy, spec: &CircuitBreaker) -> Self {
        let failures = spec.failures.as_ref();
        let settings = |is_wanted: fn(BreakerScope) -> bool| {
            let failures = failures.filter(|failures| is_wanted(failures.per));
            failures.map(Settings::from)
        };
        let is_service = object.spec.target.kind == Kind::Service;
        let limit = spec.max_connections.filter(|_| is_service);
        Self {
            spec: spec.clone(),
            namespace: object.metadata.namespace.clone(),
            target: object.spec.target.clone(),
            pending: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            room: limit.map(|limit| Arc::new(Room::new(limit))),
            breaker: settings(|per| per != BreakerScope::Endpoint)
                .map(|settings| Breaker::new(settings, clock::monotonic_ns())),
            endpoints: settings(|per| per == BreakerScope::Endpoint),
        }
    }

    /// The breaker of the whole target.
    pub(crate) const fn breaker(&self) -> Option<&Breaker> {
        self.breaker.as_ref()
    }

    /// How the breakers of endpoints are.
    pub(crate) const fn endpoints(&self) -> Option<Settings> {
        self.endpoints
    }

    /// Room for connections.
    pub(crate) const fn room(&self) -> Option<&Arc<Room>> {
        self.room.as_ref()
    }

    /// Whether it is what a policy says.
    pub(crate) fn is_of(&self, object: &TrafficPolicy) -> bool {
        self.target == object.spec.target && self.namespace == object.metadata.namespace
    }

    /// What it guards.
    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.target.name)
    }

    /// The kind of what it guards.
    pub(crate) const fn kind(&self) -> Kind {
        self.target.kind
    }

    /// The rule of the route that it guards.
    pub(crate) fn section(&self) -> Option<&str> {
        self.target.section_name.as_deref()
    }

    /// Takes one of what is limited, until it is dropped. `Ok(None)` where there is no limit.
    pub(crate) fn take(self: &Arc<Self>, what: Limit) -> Result<Option<Slot>, Limit> {
        let (Some(limit), Some(count)) = (self.limit(what), self.count(what)) else {
            return Ok(None);
        };
        if count.fetch_add(1, Ordering::Relaxed) >= limit {
            count.fetch_sub(1, Ordering::Relaxed);
            return Err(what);
        }
        Ok(Some(Slot {
            guard: Arc::clone(self),
            what,
        }))
    }

    const fn limit(&self, what: Limit) -> Option<u32> {
        match what {
            Limit::Connections => None,
            Limit::Pending => self.spec.max_pending,
            Limit::Requests => self.spec.max_requests,
            Limit::Retries => self.spec.max_retries,
        }
    }

    const fn count(&self, what: Limit) -> Option<&AtomicU32> {
        match what {
            Limit::Connections => None,
            Limit::Pending => Some(&self.pending),
            Limit::Requests => Some(&self.requests),
            Limit::Retries => Some(&self.retries),
        }
    }
}

/// One of what is limited. Given back on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    guard: Arc<Guard>,
    what: Limit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(count) = self.guard.count(self.what) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Room for connections to the endpoints of a service.
#[derive(Debug)]
pub(crate) struct Room {
    limit: u32,
    open: AtomicU32,
    waiting: AtomicU32,
    freed: Notify,
    wanted: Notify,
}

impl Room {
    fn new(limit: u32) -> Self {
        Self {
            limit,
            open: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
            wanted: Notify::new(),
        }
    }

    /// Takes a place for one connection, if there is one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(Arc::clone(self)))
    }

    /// Waits until a place is free, and takes it.
    pub(crate) async fn wait(self: &Arc<Self>) -> Place {
        let _waiter = Waiter::new(self);
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.take() {
                return place;
            }
            freed.await;
        }
    }

    /// Whether somebody waits: idle connections are to be closed then.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// The place of one connection. Given back on drop.
#[derive(Debug)]
pub(crate) struct Place(Arc<Room>);

impl Place {
    /// Whether somebody waits for it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.is_wanted()
    }

    /// Waits until somebody waits for it.
    pub(crate) async fn wanted(&self) {
        let wanted = self.0.wanted.notified();
        if !self.is_wanted() {
            wanted.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

struct Waiter<'a>(&'a Room);

impl<'a> Waiter<'a> {
    fn new(room: &'a Room) -> Self {
        room.waiting.fetch_add(1, Ordering::Relaxed);
        room.wanted.notify_waiters();
        Self(room)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        // Whoever was told and gave up tells the next.
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn guard(spec: serde_json::Value, old: &[Arc<Guard>]) -> Arc<Guard> {
        let object = json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"target": {"kind": "Service", "name": "web"}, "circuitBreaker": spec}});
        Guard::next(&serde_json::from_value(object).unwrap(), old).unwrap()
    }

    #[test]
    fn a_limit_holds_until_a_slot_is_given_back() {
        let guard = guard(json!({"maxRequests": 2}), &[]);
        let first = guard.take(Limit::Requests).unwrap();
        let second = guard.take(Limit::Requests).unwrap();
        assert!(first.is_some() && second.is_some());
        assert_eq!(guard.take(Limit::Requests).err(), Some(Limit::Requests));
        drop(first);
        assert!(guard.take(Limit::Requests).is_ok());
        assert!(guard.take(Limit::Retries).unwrap().is_none(), "no limit");
    }

    #[test]
    fn state_is_kept_where_the_words_are_the_same() {
        let spec = json!({"maxRequests": 2, "failures": {"per": "Service"}});
        let first = guard(spec.clone(), &[]);
        assert!(Arc::ptr_eq(&guard(spec, &[Arc::clone(&first)]), &first));
        assert!(!Arc::ptr_eq(
            &guard(json!({}), &[Arc::clone(&first)]),
            &first
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_connection_gets_the_place_of_the_next_that_ends() {
        let room = Arc::new(Room::new(1));
        let place = room.take().unwrap();
        assert!(room.take().is_none() && !room.is_wanted());
        let waiting = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.wait().await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(room.is_wanted());
        drop(place);
        let place = waiting.await.unwrap();
        assert!(room.take().is_none() && !room.is_wanted());
        drop(place);
        assert!(room.take().is_some());
    }
}

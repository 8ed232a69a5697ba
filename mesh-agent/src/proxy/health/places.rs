//! From where endpoints are asked.

use std::sync::{Arc, PoisonError};

use crate::net::netns::Netns;
use crate::proxy::Proxy;
use crate::proxy::view::Endpoint;
use crate::state::Snapshot;

/// From so many callers' network namespaces is an endpoint asked at most: one may lack a route that others have.
const MAX_CALLERS: usize = 3;

/// The network namespaces from which endpoints may be asked.
#[derive(Debug, Default)]
pub(super) struct Places {
    callers: Vec<Arc<Netns>>,
    /// The agent's own; opened once.
    own: Option<Arc<Netns>>,
}

impl Places {
    /// Looks who may ask now.
    pub(super) fn renew(&mut self, proxy: &Proxy) {
        let listeners = proxy
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let callers = listeners.values().map(|(_, netns)| Arc::clone(netns));
        self.callers = callers.collect();
        drop(listeners);
        self.callers.sort_unstable_by_key(|netns| netns.cookie());
        self.callers.truncate(MAX_CALLERS);
        if self.own.is_none() {
            self.own = Netns::current().ok().map(Arc::new);
        }
    }

    /// From where an endpoint is asked, in this order: its own workload, or those who call it; at last the agent.
    pub(super) fn of(&self, snapshot: &Snapshot, endpoint: &Endpoint) -> Vec<Arc<Netns>> {
        let mut places = match &endpoint.workload {
            Some(workload) => {
                let object = snapshot.workloads.get(&workload.key);
                let path = object.and_then(|it| it.spec.netns.as_ref());
                let own = path.and_then(|path| Netns::open(path).ok());
                own.map(Arc::new).into_iter().collect()
            }
            None => self.callers.clone(),
        };
        places.extend(self.own.iter().map(Arc::clone));
        places
    }
}

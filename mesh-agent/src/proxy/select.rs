//! Which endpoint is tried next, and whether the caller may go there.

use std::sync::Arc;

use super::caller::Caller;
use super::error::Error;
use super::metrics::{End, Ends, Metrics, Series};
use super::view::{Active, Endpoint, ServicePort, Workload};
use super::worker::Worker;
use crate::traffic::balance::{self, Draw};

/// The choices made for one request or connection.
#[derive(Debug)]
pub(crate) struct Selection {
    port: Arc<ServicePort>,
    /// Numbers of endpoints that have failed; at most as many as there are attempts.
    tried: Vec<u32>,
}

impl Selection {
    pub(crate) const fn new(port: Arc<ServicePort>) -> Self {
        Self {
            port,
            tried: Vec::new(),
        }
    }

    /// The service port that endpoints are chosen for.
    pub(crate) const fn port(&self) -> &Arc<ServicePort> {
        &self.port
    }

    /// Never again for this request.
    pub(crate) fn avoid(&mut self, endpoint: &Endpoint) {
        self.tried.push(endpoint.number);
    }

    /// Those that have failed may be tried again.
    pub(crate) fn forgive(&mut self) {
        self.tried.clear();
    }

    /// Picks an endpoint that has not been tried, and authorizes the caller for it.
    pub(crate) fn next(&self, worker: &Worker, caller: &Caller) -> Result<Active, Error> {
        let endpoint = self.pick(caller).ok_or(Error::NoEndpoint)?;
        let source = caller.source_towards(endpoint.address);
        let view = worker.views.load();
        let said = view
            .authz
            .authorize(&caller.conn.caller, &source, endpoint.address.into());
        if said.is_denied {
            return Err(Error::Policy(endpoint.address));
        }
        if said.is_audited {
            worker.metrics.audited.inc();
        }
        Ok(Active::new(endpoint))
    }

    /// First whom the caller's address family reaches; first who has not refused lately.
    fn pick(&self, caller: &Caller) -> Option<Arc<Endpoint>> {
        let [v4, v6] = &self.port.slots;
        let families = if caller.original.is_ipv4() {
            [v4, v6]
        } else {
            [v6, v4]
        };
        let draw = Draw {
            turn: self.port.memory.next_turn(),
            random: rand::random(),
        };
        [false, true].into_iter().find_map(|even_ejected| {
            families
                .into_iter()
                .find_map(|slots| self.pick_from(slots, draw, even_ejected))
        })
    }

    fn pick_from(&self, slots: &[u32], draw: Draw, even_ejected: bool) -> Option<Arc<Endpoint>> {
        let endpoint = |index: u32| {
            let index = usize::try_from(index).ok()?;
            self.port.endpoints.get(index)
        };
        let is_usable = |index| {
            endpoint(index).is_some_and(|endpoint| {
                !self.tried.contains(&endpoint.number)
                    && (even_ejected
                        || !(endpoint.live.is_ejected() || endpoint.live.is_critical()))
            })
        };
        let load = |index| {
            endpoint(index).map_or((0, 1), |endpoint| (endpoint.live.active(), endpoint.weight))
        };
        let index = balance::pick(slots, self.port.balancing, draw, is_usable, load)?;
        endpoint(index).map(Arc::clone)
    }
}

/// The series of a caller and an endpoint.
pub(crate) fn series(
    metrics: &Metrics,
    caller: &Workload,
    port: &ServicePort,
    endpoint: Option<&Endpoint>,
) -> Arc<Series> {
    let make = || {
        let destination =
            endpoint.map_or_else(End::default, |endpoint| destination(port, endpoint));
        let ends = Ends {
            source: caller.labels(),
            destination,
            service: port.host.clone(),
            service_name: port.service.name.clone(),
            service_namespace: port.service.namespace.clone(),
        };
        Series::new(metrics, ends)
    };
    let number = caller.number;
    match endpoint {
        Some(endpoint) => endpoint.live.series(number, make),
        None => port.memory.series(number, make),
    }
}

/// Labels of an endpoint: those of its workload, if it is one of this node.
fn destination(port: &ServicePort, endpoint: &Endpoint) -> End {
    let mut end = endpoint.workload.as_ref().map_or_else(
        || End {
            workload: endpoint.key.name.clone(),
            namespace: endpoint.key.namespace.clone(),
            ..End::default()
        },
        |workload| workload.labels(),
    );
    end.canonical_service.clone_from(&port.service.name);
    if let Some(version) = &endpoint.version {
        end.version.clone_from(version);
        end.revision.clone_from(version);
    }
    end
}

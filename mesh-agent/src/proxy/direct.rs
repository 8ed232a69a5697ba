//! Direct connections: the kernel carried them and told of their end. They have the series of those that the proxy carries.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Proxy;
use super::metrics::{Ends, Series};
use super::select;
use crate::state::graph::Observed;

/// A direct connection that was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Number of the caller's workload.
    pub workload: u32,
    /// What was dialled.
    pub original: SocketAddr,
    /// Where it went.
    pub destination: SocketAddr,
    /// Bytes that the caller sent.
    pub bytes_sent: u64,
    /// Bytes that the caller received.
    pub bytes_received: u64,
}

impl Proxy {
    /// Requests by the calling workload and the service that it called.
    #[must_use]
    pub fn edges(&self) -> Observed {
        self.shared.metrics.edges()
    }

    /// Counts a connection that neither came here nor will be counted otherwise. It is opened and closed by that.
    pub fn count_direct(&self, closed: &Direct) {
        let view = self.shared.views.load();
        let workload = view
            .workload(closed.workload)
            .unwrap_or(&self.shared.stranger);
        let metrics = &self.shared.metrics;
        let series = match view.port(&closed.original.into()) {
            Some(port) => {
                let mut endpoints = port.endpoints.iter();
                let endpoint = endpoints.find(|endpoint| endpoint.address == closed.destination);
                let endpoint = endpoint.map(|endpoint| &**endpoint);
                select::series(metrics, workload, port, endpoint)
            }
            // The service was deleted while the connection lived on.
            None => Arc::new(Series::new(
                metrics,
                Ends {
                    source: workload.labels(),
                    ..Ends::unknown()
                },
            )),
        };
        let series = series.tcp("-");
        series.opened.inc();
        series.received.inc_by(closed.bytes_sent);
        series.sent.inc_by(closed.bytes_received);
        series.closed.inc();
    }
}

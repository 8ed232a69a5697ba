//! What is counted and logged of an opaque connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::net::copy::Counts;
use crate::proxy::access_log;
use crate::proxy::caller::Caller;
use crate::proxy::error::Error;
use crate::proxy::metrics::{Leased, TcpSeries};
use crate::proxy::select;
use crate::proxy::view::{Endpoint, ServicePort};
use crate::proxy::worker::Worker;
use crate::traffic::route::stream::StreamRoute;

/// What is counted and logged of one connection.
pub(super) struct Record<'a> {
    pub(super) worker: &'a Worker,
    pub(super) caller: &'a Caller,
    pub(super) port: &'a ServicePort,
    pub(super) route: Option<&'a StreamRoute>,
    pub(super) endpoint: Option<&'a Arc<Endpoint>>,
    pub(super) started: Instant,
    pub(super) counts: &'a Counts,
    pub(super) attempts: u32,
    is_open: bool,
    reported: (u64, u64),
}

impl<'a> Record<'a> {
    pub(super) fn new(
        worker: &'a Worker,
        caller: &'a Caller,
        port: &'a ServicePort,
        counts: &'a Counts,
    ) -> Self {
        Self {
            worker,
            caller,
            port,
            route: None,
            endpoint: None,
            started: Instant::now(),
            counts,
            attempts: 0,
            is_open: false,
            reported: (0, 0),
        }
    }

    fn series(&self, flags: &'static str) -> Arc<Leased<TcpSeries>> {
        let endpoint = self.endpoint.map(|endpoint| &**endpoint);
        let metrics = &self.worker.metrics;
        select::series(metrics, &self.caller.workload, self.port, endpoint).tcp(flags)
    }

    /// It carries bytes from now on.
    pub(super) fn open(&mut self) {
        self.is_open = true;
        self.series("-").opened.inc();
    }

    /// Counts what has moved since the last report.
    pub(super) fn report(&mut self, flags: &'static str) {
        let (received, sent) = self.counts.load();
        let series = self.series(flags);
        series.received.inc_by(received - self.reported.0);
        series.sent.inc_by(sent - self.reported.1);
        self.reported = (received, sent);
    }

    /// It has ended: counted and logged.
    pub(super) fn close(&mut self, error: Option<&Error>) {
        let flags = error.map_or("-", Error::flags);
        self.report(flags);
        let series = self.series(flags);
        if !self.is_open {
            series.opened.inc();
        }
        series.closed.inc();
        let endpoint = self.endpoint.map(|endpoint| &**endpoint);
        let (received, sent) = self.counts.load();
        if let Some(error) = error {
            self.worker.metrics.failed(error.reason());
        }
        if self.worker.config.access_log.is_enabled() {
            let line = access_log::Line {
                caller: self.caller,
                port: Some(self.port),
                endpoint,
                protocol: "tcp",
                head: None,
                route: self.route.map(|route| &*route.label),
                status: None,
                grpc_status: None,
                bytes_sent: received,
                bytes_received: sent,
                duration: self.started.elapsed(),
                attempts: self.attempts,
                flags,
                reason: error.map(Error::reason),
            };
            self.worker.config.access_log.write(line.to_json());
        }
    }
}

/// A connection to what is no service has ended: logged, and counted by its reason alone.
pub(super) fn astray(worker: &Worker, caller: &Caller, error: &Error) {
    worker.metrics.failed(error.reason());
    if worker.config.access_log.is_enabled() {
        let line = access_log::Line {
            caller,
            port: None,
            endpoint: None,
            protocol: "tcp",
            head: None,
            route: None,
            status: None,
            grpc_status: None,
            bytes_sent: 0,
            bytes_received: 0,
            duration: Duration::ZERO,
            attempts: 0,
            flags: error.flags(),
            reason: Some(error.reason()),
        };
        worker.config.access_log.write(line.to_json());
    }
}

//! What can be set about the proxy. Values are valid by construction of `config`.

use std::time::Duration;

use crate::state::endpoint::Locality;
use crate::telemetry::AccessLog;
use crate::traffic::admission::Bounds;
use crate::traffic::limit::nanos;
use crate::traffic::path;

/// Settings of the proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads that carry traffic; at least one.
    pub workers: usize,
    /// Port of the outbound listeners; zero takes any free port (tests).
    pub port: u16,
    /// What is bounded.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How far spellings of a path are made one.
    pub path_normalization: path::Mode,
    /// Where a line per request or connection goes.
    pub access_log: AccessLog,
    /// Where this node is, for balancing by nearness.
    pub locality: Locality,
}

impl Config {
    /// What one worker may do.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            requests: self.limits.requests,
            workload_requests: self.limits.workload_requests,
            queued: self.limits.queued_requests,
            patience_ns: nanos(self.timeouts.queue),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            port: mesh_common::service::OUTBOUND_PORT,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            path_normalization: path::Mode::default(),
            access_log: AccessLog::disabled(),
            locality: Locality::default(),
        }
    }
}

/// Bounds. A connection counts from accept to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all workloads.
    pub connections: usize,
    /// Connections of one workload.
    pub workload_connections: usize,
    /// Bytes in buffers for all workloads.
    pub buffered_bytes: usize,
    /// Bytes in buffers for one workload.
    pub workload_buffered_bytes: usize,
    /// Bytes of the head of a request or response, decoded.
    pub header_bytes: usize,
    /// Idle HTTP/1.1 connections kept per endpoint and caller by one worker.
    pub idle_connections: usize,
    /// Requests of all workloads that one worker serves at once.
    pub requests: usize,
    /// Requests of one workload that one worker serves at once.
    pub workload_requests: usize,
    /// Requests that wait at one worker to be served.
    pub queued_requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 * 1024,
            workload_connections: 8 * 1024,
            buffered_bytes: 1024 * MIB,
            workload_buffered_bytes: 512 * MIB,
            header_bytes: 64 * 1024,
            idle_connections: 256,
            requests: 16 * 1024,
            workload_requests: 8 * 1024,
            queued_requests: 8 * 1024,
        }
    }
}

const MIB: usize = 1024 * 1024;

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect to one endpoint.
    pub connect: Duration,
    /// From the opening of a connection that is known to be HTTP to its first byte.
    pub first_byte: Duration,
    /// From the first byte of a request's head to its last.
    pub header: Duration,
    /// How long the body of a request may be silent; that of a gRPC call, which is a stream: `idle`.
    pub body: Duration,
    /// From the end of a request to the head of the response.
    pub response: Duration,
    /// How long a client's connection may be open without a request.
    pub keep_alive: Duration,
    /// How long a client's connection may be used before it is told to open another; zero: for ever.
    pub max_age: Duration,
    /// How long a connection, request or tunnel may move no byte.
    pub idle: Duration,
    /// How long an unused connection to an endpoint is kept.
    pub pool_idle: Duration,
    /// From the first byte of an unknown protocol until it counts as opaque.
    pub detect: Duration,
    /// How long a request may wait to be served when a worker is overloaded.
    pub queue: Duration,
    /// How long both sides of an unknown protocol may be silent before the endpoint is dialled too.
    pub detect_race: Duration,
    /// How long connections to a port of unknown protocol are not looked into after its server has spoken first. Too short
    /// makes clients of such servers wait for `detect_race` often; too long keeps routes and retries from a port that a wrong
    /// server has served for a moment.
    pub detected: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_mins(1),
            header: Duration::from_secs(10),
            body: Duration::from_mins(5),
            response: Duration::from_mins(5),
            keep_alive: Duration::from_mins(10),
            max_age: Duration::from_hours(24),
            idle: Duration::from_hours(1),
            pool_idle: Duration::from_mins(1),
            detect: Duration::from_secs(1),
            queue: Duration::from_secs(1),
            detect_race: Duration::from_millis(20),
            detected: Duration::from_mins(1),
        }
    }
}

//! Many exchanges, and what came of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Many exchanges.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// HTTP/1.1, else 16 bytes there and back.
    pub http: bool,
    /// What is dialled.
    pub address: SocketAddr,
    /// At a time.
    pub connections: u64,
    /// Whether a connection is used again.
    pub keep_alive: bool,
    /// The end, unless stopped before.
    pub millis: u64,
    /// Between two exchanges of a connection.
    pub pause_micros: u64,
}

/// Requests at a fixed rate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pace {
    /// What is dialled.
    pub address: SocketAddr,
    /// Requests a second on average; the time between two is drawn anew for each.
    pub rate: u32,
    /// Connections that carry them.
    pub connections: u32,
    /// For how long.
    pub millis: u64,
}

/// What came of many exchanges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Exchanges that worked.
    pub succeeded: u64,
    /// Exchanges that did not.
    pub failed: u64,
    /// HTTP: by the server's name.
    pub by_server: BTreeMap<String, u64>,
    /// What failed, how often.
    pub errors: BTreeMap<String, u64>,
    /// The longest time without a success.
    pub longest_gap_millis: u64,
    /// How long it took.
    pub elapsed_micros: u64,
    /// Half of the exchanges took less.
    pub p50_nanos: u64,
    /// All but one in a hundred took less.
    pub p99_nanos: u64,
    /// Bytes sent.
    pub bytes: u64,
}

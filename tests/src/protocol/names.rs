//! Questions for names, and answers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A question for a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Who is asked.
    pub resolvers: Vec<SocketAddr>,
    /// The name.
    pub name: String,
    /// The number of the type of record.
    pub kind: u16,
    /// How.
    pub how: How,
}

/// How a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// By a datagram socket that is not connected.
    Unconnected,
    /// By a connected datagram socket.
    Connected,
    /// Over TCP.
    Tcp,
}

/// An answer to a question for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Where it seems to come from.
    pub from: SocketAddr,
    /// Its code, for example `No Error`.
    pub code: String,
    /// The answers, each its data.
    pub records: Vec<String>,
    /// The names of the servers that say so.
    pub authorities: Vec<String>,
    /// The time to live of the first record.
    pub ttl: Option<u32>,
}

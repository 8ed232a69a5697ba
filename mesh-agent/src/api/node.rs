//! What the API asks of the rest of the agent; `app` answers.

use std::net::SocketAddr;

use serde_json::Value;

use crate::state::Refusal;
use crate::state::endpoint::HealthStatus;
use crate::state::graph::Graph;
use crate::state::object::ObjectKey;
use crate::state::report::{
    BpfReport, BreakerList, ConnectionList, CoverageList, Explanation, RequestQuestion, Status,
    Transport,
};

/// The agent, as far as the API shows it. The methods may block for a short while: they are called on a thread for
/// that.
pub trait Node: Send + Sync + 'static {
    /// Version, readiness, progress.
    fn status(&self) -> Status;

    /// Where the connections of each workload went.
    fn coverage(&self) -> Result<CoverageList, NodeError>;

    /// Live connections.
    fn connections(&self) -> Result<ConnectionList, NodeError>;

    /// Who needs and who calls whom; with `namespace`, where one end is in it.
    fn graph(&self, namespace: Option<&str>) -> Result<Graph, NodeError>;

    /// Circuit breakers.
    fn breakers(&self) -> BreakerList;

    /// What would happen to a connection of the workload `source`, and to a request on it.
    fn explain(
        &self,
        source: &ObjectKey,
        destination: SocketAddr,
        transport: Transport,
        request: Option<&RequestQuestion>,
    ) -> Result<Explanation, NodeError>;

    /// The kernel's side.
    fn bpf(&self) -> Result<BpfReport, NodeError>;

    /// Whatever else `config_dump` shows beside the registry: settings, never secrets.
    fn config_dump(&self) -> Value;

    /// Changes what is logged, for example `debug` or `info,mesh_agent::proxy=trace`.
    fn set_log_level(&self, level: &str) -> Result<(), NodeError>;

    /// An endpoint says how it is, by one of its checks that has a TTL. There is such a check.
    fn beat(
        &self,
        check: &(ObjectKey, String),
        status: HealthStatus,
        output: String,
    ) -> Result<(), Refusal>;

    /// Starts to drain, and returns at once.
    fn drain(&self);

    /// What readiness waits for; empty: ready.
    fn pending(&self) -> Vec<String>;

    /// All series in the `OpenMetrics` text format.
    fn metrics(&self) -> String;
}

/// Why the node does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The question is wrong.
    #[error("{field}: {message}")]
    Invalid {
        /// The parameter or field.
        field: String,
        /// What is wrong with it, and what would be right.
        message: String,
    },
    /// The question is about something that is not there.
    #[error("no {what}")]
    NotFound {
        /// Kind and name.
        what: String,
    },
    /// The part that knows is not up, or the kernel refuses.
    #[error("{message}")]
    Unavailable {
        /// What is missing.
        message: String,
    },
}

//! What the agent tells about where objects come from. Data only.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::Source;

/// How a source of objects is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceReport {
    /// The source.
    pub source: Source,
    /// Where it is: a folder, an address.
    pub place: String,
    /// Why it cannot be read now; what it said last stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Objects that are its.
    pub objects: u64,
    /// Objects and files of it that are refused.
    pub rejected: u64,
    /// The first 100 of them.
    #[serde(default)]
    pub rejections: Vec<RejectionReport>,
}

/// Something in a source that is refused. Its last good version stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RejectionReport {
    /// Where it is: of a file `FILE:LINE`.
    pub place: String,
    /// Kind and key, where they can be told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// The field and what is wrong with it.
    pub message: String,
}

/// How the registry is that several nodes share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryReport {
    /// Where it is, without the password.
    pub address: String,
    /// The name of this node in it.
    pub node: String,
    /// Whether this node hears of every change now.
    pub connected: bool,
    /// Seconds since it has; zero while it does.
    pub staleness_seconds: u64,
    /// The last write of the shared registry that this node has.
    pub revision: i64,
    /// Endpoints of this node that the shared registry has yet to hear of.
    pub queued: u64,
    /// Why it is not connected, or what went wrong last.
    pub error: String,
}

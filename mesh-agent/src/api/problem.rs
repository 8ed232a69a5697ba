//! Errors as RFC 9457 problems: `application/problem+json` with the field and a reason for machines.

use axum::Json;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;
use utoipa::ToSchema;

use super::large::LargeError;
use super::node::NodeError;
use crate::state::Refusal;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status and the reason say it.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: Box<str>,
    /// The words of the status.
    #[schema(value_type = String)]
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, and what would be right; for people.
    #[schema(value_type = String)]
    pub detail: Box<str>,
    /// Path of the field that is wrong, for example `spec.ports[0].port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub field: Option<Box<str>>,
    /// One word, for machines: `Invalid`, `NotSupported`, `Conflict`, `NotFound` and so on.
    #[schema(value_type = String)]
    pub reason: Box<str>,
    /// What readiness waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
}

/// The content type of problems.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

impl Problem {
    /// A problem without a field.
    pub(super) fn new(status: StatusCode, reason: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into().into(),
            field: None,
            reason: reason.into(),
            pending: Vec::new(),
        }
    }

    /// Names the field.
    pub(super) fn with_field(self, field: impl Into<String>) -> Self {
        Self {
            field: Some(field.into().into()),
            ..self
        }
    }

    /// A part of the request line or of the headers is wrong.
    pub(super) fn bad_request(field: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", detail).with_field(field)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let content_type = HeaderValue::from_static(PROBLEM_JSON);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid {
                field,
                message,
                reason,
            } => {
                let field = if field.is_empty() { "body" } else { &field };
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, &reason, message).with_field(field)
            }
            Refusal::Conflict { .. } => {
                Self::new(StatusCode::CONFLICT, "Conflict", refusal.to_string())
                    .with_field("metadata.resourceVersion")
            }
            Refusal::Owned { .. } => Self::new(StatusCode::CONFLICT, "Owned", refusal.to_string())
                .with_field("metadata.source"),
            Refusal::DiskFull => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "DiskFull",
                refusal.to_string(),
            ),
            Refusal::NotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, "NotFound", refusal.to_string())
            }
            Refusal::Unavailable(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "RegistryUnavailable",
                refusal.to_string(),
            ),
            Refusal::Storage(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "StorageFailed",
                refusal.to_string(),
            ),
        }
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Invalid { field, message } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with_field(field)
            }
            NodeError::NotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, "NotFound", error.to_string())
            }
            NodeError::Unavailable { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Unavailable",
                error.to_string(),
            ),
        }
    }
}

impl From<LargeError> for Problem {
    fn from(error: LargeError) -> Self {
        match error {
            LargeError::Busy => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "Busy", error.to_string())
            }
            LargeError::Failed(error) => error.into(),
        }
    }
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        tracing::error!(%error, "request failed inside the agent");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal",
            "the request failed inside the agent; its log says why",
        )
    }
}

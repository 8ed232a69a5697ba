//! Why a request of a Consul client failed: a status and a line of text, as those clients expect it.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::task::JoinError;

use crate::api::large::LargeError;
use crate::state::Refusal;

/// Why a request failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Failure {
    /// The request is wrong.
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// There is no such thing.
    pub(super) fn absent(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// The caller may not.
    pub(super) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }

    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let kind = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
        (self.status, kind, self.text).into_response()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::Invalid { .. } => StatusCode::BAD_REQUEST,
            Refusal::Conflict { .. } | Refusal::Owned { .. } => StatusCode::CONFLICT,
            Refusal::NotFound { .. } => StatusCode::NOT_FOUND,
            Refusal::Unavailable(_) | Refusal::Storage(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<LargeError> for Failure {
    fn from(error: LargeError) -> Self {
        match error {
            LargeError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            LargeError::Failed(error) => error.into(),
        }
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        tracing::error!(%error, "request failed inside the agent");
        let text = "the request failed inside the agent; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

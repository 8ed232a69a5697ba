//! Bodies of requests: bounded in size, time and depth, and JSON only.

use std::error::Error as _;
use std::time::Duration;

use axum::body::{self, Body};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::LengthLimitError;
use serde_json::Value;

use super::problem::Problem;

/// Largest body.
pub(super) const MAX_BODY: usize = 1 << 20;
/// How long a client may take to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Media types of a body. The second is what `curl -d` says when nobody tells it otherwise; the body is JSON all the same.
const ACCEPTED: [&str; 2] = ["application/json", "application/x-www-form-urlencoded"];

/// Reads a JSON document.
pub(super) async fn json(request: Request) -> Result<Value, Problem> {
    expect_json(request.headers())?;
    let bytes = bytes(request).await?;
    // serde_json refuses what is nested deeper than 128.
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "MalformedJson",
            format!("the body is not JSON: {error}"),
        )
        .with_field("body")
    })
}

/// Reads a body, whatever is in it.
pub(super) async fn bytes(request: Request) -> Result<bytes::Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let declared = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|it| it > MAX_BODY as u64) {
        return Err(too_large());
    }
    tokio::time::timeout(BODY_TIMEOUT, read(body))
        .await
        .unwrap_or_else(|_elapsed| {
            let detail = format!("the body did not arrive within {BODY_TIMEOUT:?}");
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "Timeout", detail))
        })
}

async fn read(body: Body) -> Result<bytes::Bytes, Problem> {
    body::to_bytes(body, MAX_BODY).await.map_err(|error| {
        if error
            .source()
            .is_some_and(<dyn std::error::Error>::is::<LengthLimitError>)
        {
            too_large()
        } else {
            Problem::bad_request("body", format!("the body cannot be read: {error}"))
        }
    })
}

fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = value.to_str().unwrap_or_default();
    let essence = essence.split(';').next().unwrap_or_default().trim();
    if ACCEPTED.iter().any(|it| essence.eq_ignore_ascii_case(it)) {
        return Ok(());
    }
    let detail = format!("a body is application/json, not {essence:?}");
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "UnsupportedMediaType",
        detail,
    )
    .with_field("Content-Type"))
}

fn too_large() -> Problem {
    let detail = format!("a body has at most {MAX_BODY} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", detail).with_field("body")
}

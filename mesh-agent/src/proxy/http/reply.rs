//! Replies that the proxy makes itself.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode, Version};

use super::body::Reply;
use super::exchange::Exchange;
use super::headers::MESH_ERROR;
use crate::proxy::error::Error;

/// How a client has asked, as far as a reply depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) version: Version,
    /// It asks for a head only.
    pub(crate) is_head: bool,
}

impl Form {
    /// Whether the body of an answer must be left out. In HTTP/1 hyper does that, and tells how long it would be.
    fn is_without_body(self, status: StatusCode) -> bool {
        let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.version >= Version::HTTP_2 && (self.is_head || has_none)
    }
}

/// Tells the client why there is no answer of an endpoint. A gRPC call gets a status of its own kind.
pub(crate) fn refuse(error: &Error, mut exchange: Box<Exchange>, form: Form) -> Response<Reply> {
    exchange.failed(error);
    let mut response = if exchange.is_grpc {
        grpc(error)
    } else {
        plain(error)
    };
    if form.is_without_body(response.status()) {
        *response.body_mut() = Reply::Text(None);
    }
    let headers = response.headers_mut();
    headers.insert(MESH_ERROR, HeaderValue::from_static(error.reason()));
    let is_refused = matches!(error, Error::RateLimited);
    exchange.admitted.tell(headers, is_refused);
    if is_refused || matches!(error, Error::Overload(_)) {
        headers
            .entry(header::RETRY_AFTER)
            .or_insert(HeaderValue::from_static("1"));
    }
    let is_last = matches!(error, Error::BadRequest(_)) || exchange.is_turned_away();
    if is_last && form.version < Version::HTTP_2 {
        // Nobody knows where the next request would begin.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.answered(response.status(), response.headers());
    exchange.complete();
    response
}

/// The answer that a rule of a route gives itself: a redirect, or what browsers may ask from other origins.
pub(crate) fn own(
    status: StatusCode,
    headers: HeaderMap,
    mut exchange: Box<Exchange>,
) -> Response<Reply> {
    let mut response = Response::new(Reply::Text(None));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    exchange.answered(status, response.headers());
    exchange.complete();
    response
}

fn plain(error: &Error) -> Response<Reply> {
    let text = Bytes::from(format!("mesh: {error}\n"));
    let mut response = Response::new(Reply::Text(Some(text)));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Trailers only: the head of the response is its end.
fn grpc(error: &Error) -> Response<Reply> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(
        "grpc-status",
        HeaderValue::from(u16::from(error.grpc_status())),
    );
    if let Ok(message) = HeaderValue::try_from(percent_encode(&error.to_string())) {
        headers.insert("grpc-message", message);
    }
    let mut response = Response::new(Reply::Text(None));
    *response.status_mut() = StatusCode::OK;
    *response.headers_mut() = headers;
    response
}

/// As gRPC wants it: printable ASCII except the percent sign stays.
fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
            encoded.push('%');
            encoded.push(digit(byte >> 4).to_ascii_uppercase());
            encoded.push(digit(byte & 15).to_ascii_uppercase());
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_of_grpc_are_printable() {
        assert_eq!(super::percent_encode("50 % é\n"), "50 %25 %C3%A9%0A");
    }
}

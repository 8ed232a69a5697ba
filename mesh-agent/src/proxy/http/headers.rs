//! What a head may say, what is taken off it, and what is put on: pure functions of heads.
//!
//! [`admit`] judges a request, [`clean_request`] takes off what ends here and puts on what the proxy says, and after the
//! filters of a route [`rewrite`] makes the head that an endpoint gets. [`clean_response`] judges and cleans the answer,
//! [`clean_trailers`] what follows a body in either direction.

mod authority;
mod fields;
mod request;
mod response;
mod trace;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};

use crate::proxy::error::Error;

pub(crate) use authority::LastHost;
pub(crate) use fields::{clean_trailers, remove_lookalikes};
pub(crate) use request::{Wish, admit, check, judge};
pub(crate) use response::{After, clean_response, interim_fields, interim_head};
pub(crate) use trace::{Additions, REQUEST_ID};

/// Why the proxy itself answered.
pub(crate) const MESH_ERROR: HeaderName = HeaderName::from_static("x-mesh-error");

/// Takes off what ends with a connection. Gives back `te`, if it was there.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut te = None;
    // To look at the few that there are costs less than to look for each that there might be.
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)).cloned() {
        if name == header::CONNECTION && !lists_nothing(headers) {
            let listed: Vec<HeaderName> = connection_tokens(headers)
                // What most say, and what goes anyway.
                .filter(|token| *token != "keep-alive")
                .filter_map(|token| HeaderName::try_from(token).ok())
                .filter(|name| !PROTECTED.contains(name) && !is_hop_by_hop(name))
                .collect();
            for name in listed {
                headers.remove(name);
            }
        }
        let value = headers.remove(&name);
        if name == header::TE {
            te = value;
        }
    }
    te
}

/// Whether `connection` says only what most say, and lists no field that would not go anyway.
fn lists_nothing(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONNECTION)
        .is_some_and(|value| value == "keep-alive")
        && !fields::has_repeated(headers)
}

/// Whether a field speaks of one connection and ends with it.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    // By its text: that tells most names apart by their length alone.
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Headers that a client cannot have removed by listing them in `connection`.
const PROTECTED: [HeaderName; 4] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::AUTHORIZATION,
    header::COOKIE,
];

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    fields::listed(headers, &header::CONNECTION)
}

/// Takes off a request what ends here and what only a proxy may say, and puts on what this proxy says. Whatever a route
/// changes comes after it: a client that lists a field in `connection` would else have it removed.
pub(crate) fn clean_request(parts: &mut Parts, wish: &mut Wish, additions: Additions<'_>) {
    let headers = &mut parts.headers;
    wish.te = remove_hop_by_hop(headers);
    fields::remove_claims(headers);
    fields::merge_lengths(headers);
    // The proxy answers the expectation by reading on: hyper does it for HTTP/1.1, the task of the request for HTTP/2.
    fields::remove_rare(headers, &header::EXPECT);
    // A table that grows several times is filled anew as often.
    headers.reserve(ADDED);
    trace::add(headers, additions);
}

/// Makes the head that the endpoint gets, for HTTP/2 or HTTP/1.1, of one that is clean. `fallback` names the service where
/// the request names nobody.
pub(crate) fn rewrite(
    parts: &mut Parts,
    wish: &Wish,
    fallback: &str,
    is_http2: bool,
    has_body: bool,
) -> Result<(), Error> {
    let headers = &mut parts.headers;
    if let Some(upgrade) = &wish.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade.clone());
    }
    if is_http2 {
        let says_trailers = |te: &HeaderValue| te.as_bytes().eq_ignore_ascii_case(b"trailers");
        if wish.te.as_ref().is_some_and(says_trailers) {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    } else {
        if has_body && !fields::is_there(headers, &header::CONTENT_LENGTH) {
            // hyper takes a GET or HEAD that does not say so for one without a body.
            headers.insert(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
        if parts.version == Version::HTTP_2 {
            fields::join_cookies(headers);
        }
    }
    rewrite_target(parts, wish, fallback, is_http2)
}

/// Fields that the proxy adds to most heads: what [`trace::add`] does.
const ADDED: usize = 4;

fn rewrite_target(
    parts: &mut Parts,
    wish: &Wish,
    fallback: &str,
    is_http2: bool,
) -> Result<(), Error> {
    const BAD: Error = Error::BadRequest("the target is not a path");
    let authority = match &wish.authority {
        Some(authority) => authority.clone(),
        None => Authority::try_from(fallback).ok().ok_or(BAD)?,
    };
    let mut uri = http::uri::Parts::default();
    if wish.is_connect {
        uri.authority = Some(authority.clone());
    } else {
        let path = parts.uri.path_and_query().cloned();
        uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        if is_http2 {
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(authority.clone());
        }
    }
    parts.uri = Uri::from_parts(uri).ok().ok_or(BAD)?;
    if is_http2 {
        parts.headers.remove(header::HOST);
        parts.version = Version::HTTP_2;
    } else {
        parts.version = Version::HTTP_11;
        // Most clients spell it so already.
        let is_said = |host: &HeaderValue| host.as_bytes() == authority.as_str().as_bytes();
        if !parts.headers.get(header::HOST).is_some_and(is_said) {
            let host = HeaderValue::from_str(authority.as_str()).ok().ok_or(BAD)?;
            parts.headers.insert(header::HOST, host);
        }
    }
    Ok(())
}

/// Whether a request may be sent twice without a difference: RFC 9110, 9.2.2.
pub(crate) const fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

#[cfg(test)]
mod tests;

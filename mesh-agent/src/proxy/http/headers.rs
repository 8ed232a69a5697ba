//! What a request may say, what is taken off it, and what is put on: pure functions of its head.

use std::net::IpAddr;

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};

use crate::proxy::error::Error;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Why the proxy itself answered.
pub(crate) const MESH_ERROR: HeaderName = HeaderName::from_static("x-mesh-error");

/// Headers that speak of one connection and end with it.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HTTP2_SETTINGS,
    header::TE,
];

/// Headers by which a client could claim to be somebody else. This proxy is the first hop, so nobody may.
const CLAIMS: [HeaderName; 4] = [
    header::FORWARDED,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    FORWARDED_CERTIFICATE,
];

/// Longest request id that is passed on.
const MAX_REQUEST_ID: usize = 128;

/// What a request asks for, once its head has been found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Whom it names: what policy and routing see is what the endpoint gets.
    pub(crate) authority: Option<Authority>,
    /// The protocol it wants to switch to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// It is a CONNECT.
    pub(crate) is_connect: bool,
    /// It is a gRPC call.
    pub(crate) is_grpc: bool,
}

/// Refuses heads that two servers could read in two ways.
pub(crate) fn check(parts: &Parts) -> Result<Wish, Error> {
    let headers = &parts.headers;
    check_framing(parts)?;
    let authority = check_authority(parts)?;
    Ok(Wish {
        authority,
        upgrade: upgrade(parts),
        is_connect: parts.method == Method::CONNECT,
        is_grpc: is_grpc(headers),
    })
}

fn check_framing(parts: &Parts) -> Result<(), Error> {
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    if parts.version != Version::HTTP_11 {
        return Err(Error::BadRequest("transfer-encoding belongs to HTTP/1.1"));
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Error::BadRequest(
            "transfer-encoding is not exactly chunked",
        ));
    }
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Error::BadRequest(
            "both transfer-encoding and content-length",
        ));
    }
    Ok(())
}

fn check_authority(parts: &Parts) -> Result<Option<Authority>, Error> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Error::BadRequest("more than one host"));
    }
    let host = match host {
        Some(value) if value.is_empty() => None,
        Some(value) => {
            let host = Authority::try_from(value.as_bytes());
            Some(
                host.ok()
                    .ok_or(Error::BadRequest("host is not a host and port"))?,
            )
        }
        None => None,
    };
    let target = parts.uri.authority();
    if host
        .as_ref()
        .or(target)
        .is_some_and(|name| name.as_str().contains('@'))
    {
        return Err(Error::BadRequest("user information in the host"));
    }
    match (target, host) {
        (Some(target), Some(host)) if !target.as_str().eq_ignore_ascii_case(host.as_str()) => Err(
            Error::BadRequest("host differs from the target of the request"),
        ),
        (Some(target), _) => Ok(Some(target.clone())),
        (None, Some(host)) => Ok(Some(host)),
        (None, None)
            if parts.version == Version::HTTP_11 && !parts.headers.contains_key(header::HOST) =>
        {
            Err(Error::BadRequest("no host"))
        }
        (None, None) => Ok(None),
    }
}

/// The protocol to switch to. Never HTTP/2: that would smuggle requests past the proxy.
fn upgrade(parts: &Parts) -> Option<HeaderValue> {
    if parts.version != Version::HTTP_11 || !lists(&parts.headers, "upgrade") {
        return None;
    }
    let wanted = parts.headers.get(header::UPGRADE)?;
    let is_http2 = wanted
        .as_bytes()
        .get(..2)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"h2"));
    (!is_http2).then(|| wanted.clone())
}

/// Whether `connection` lists `token`.
fn lists(headers: &HeaderMap, token: &str) -> bool {
    connection_tokens(headers).any(|listed| listed.eq_ignore_ascii_case(token))
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Takes off what ends with a connection.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = connection_tokens(headers)
            .filter_map(|token| HeaderName::try_from(token).ok())
            .filter(|name| !PROTECTED.contains(name))
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Headers that a client cannot have removed by listing them in `connection`.
const PROTECTED: [HeaderName; 4] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::AUTHORIZATION,
    header::COOKIE,
];

/// What the proxy adds to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Additions {
    /// The caller's address.
    pub(crate) caller: Option<IpAddr>,
    /// For names that must be made.
    pub(crate) random: fn() -> u128,
}

/// Makes the head that the endpoint gets, for HTTP/2 or HTTP/1.1. `fallback` names the service where the request
/// names nobody.
pub(crate) fn rewrite(
    parts: &mut Parts,
    wish: &Wish,
    fallback: &str,
    is_http2: bool,
    additions: Additions,
) -> Result<(), Error> {
    let takes_trailers = parts
        .headers
        .get(header::TE)
        .is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(&mut parts.headers);
    for name in &CLAIMS {
        parts.headers.remove(name);
    }
    // The proxy has answered the expectation by reading on.
    parts.headers.remove(header::EXPECT);
    if takes_trailers && is_http2 {
        parts
            .headers
            .insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = &wish.upgrade {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade.clone());
    }
    add(&mut parts.headers, additions);
    rewrite_target(parts, wish, fallback, is_http2)
}

fn add(headers: &mut HeaderMap, additions: Additions) {
    if let Some(caller) = additions.caller
        && let Ok(value) = HeaderValue::try_from(caller.to_string())
    {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    let is_sound = |id: &HeaderValue| !id.is_empty() && id.len() <= MAX_REQUEST_ID;
    if !headers.get(REQUEST_ID).is_some_and(is_sound) {
        let id = uuid::Builder::from_random_bytes((additions.random)().to_ne_bytes()).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        if let Ok(value) = HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut text)) {
            headers.insert(REQUEST_ID, value);
        }
    }
    if !headers
        .get(TRACEPARENT)
        .is_some_and(|value| is_traceparent(value.as_bytes()))
    {
        headers.remove(TRACESTATE);
        let trace = (additions.random)().max(1);
        let parent = u64::try_from((additions.random)() >> 64)
            .unwrap_or(1)
            .max(1);
        // Not sampled: whoever records traces decides for itself.
        if let Ok(value) = HeaderValue::try_from(format!("00-{trace:032x}-{parent:016x}-00")) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

/// Version 00 of the W3C trace context: `00-TRACE-PARENT-FLAGS`, neither id zero.
fn is_traceparent(value: &[u8]) -> bool {
    let is_hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let mut parts = value.split(|byte| *byte == b'-');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(version), Some(trace), Some(parent), Some(flags)) => {
            version.len() == 2
                && trace.len() == 32
                && parent.len() == 16
                && flags.len() == 2
                && version != b"ff"
                && (version != b"00" || parts.next().is_none())
                && [version, trace, parent, flags].into_iter().all(is_hex)
                && !is_zero(trace)
                && !is_zero(parent)
        }
        _ => false,
    }
}

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
        let host = HeaderValue::from_str(authority.as_str()).ok().ok_or(BAD)?;
        match parts.headers.entry(header::HOST) {
            Entry::Occupied(mut entry) => drop(entry.insert(host)),
            Entry::Vacant(entry) => drop(entry.insert(host).len()),
        }
    }
    Ok(())
}

/// Makes the head that the client gets. `upgraded` keeps what a switch of protocols needs.
pub(crate) fn clean_response(headers: &mut HeaderMap, upgraded: bool) {
    let upgrade = if upgraded {
        headers.get(header::UPGRADE).cloned()
    } else {
        None
    };
    remove_hop_by_hop(headers);
    headers.remove(MESH_ERROR);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
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

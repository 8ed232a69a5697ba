//! Single fields: which of them a client may not set, which may not follow a body, and how a length is written.
//!
//! Removed at the first hop, as only a proxy may say so: `forwarded`, `x-forwarded*`, `x-real-ip`, `x-client-ip`,
//! `x-cluster-client-ip`, `true-client-ip`, `x-envoy-*`, `x-mesh-*`. Removed too: a name with `_` that would collide with
//! one of these, with a field of framing or credentials, or with a field that the request has as well, because servers that
//! follow CGI (RFC 3875, 4.1.18) cannot tell `x_real_ip` from `x-real-ip`.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Begins of names that only a proxy may set.
const CLAIMED_PREFIXES: [&str; 3] = ["x-forwarded", "x-envoy-", "x-mesh-"];
/// Names that only a proxy may set.
const CLAIMED_NAMES: [&str; 5] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
];
/// Names that nothing may collide with, present or not.
const RESERVED: [&str; 13] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
    "proxy-authorization",
];
/// What may not stand behind a body: framing, routing, credentials, and what changes how the message is read. RFC 9110,
/// 6.5.1.
static NOT_IN_TRAILERS: [HeaderName; 23] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PRAGMA,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VARY,
    header::WWW_AUTHENTICATE,
];

fn is_claim(name: &str) -> bool {
    // Most names begin with another letter.
    matches!(name.as_bytes().first(), Some(b'x' | b'f' | b't'))
        && (CLAIMED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || CLAIMED_NAMES.contains(&name))
}

/// Whether a server that takes `_` for `-` would take `name` for something that it must not be.
fn collides(name: &str, headers: &HeaderMap) -> bool {
    // Names are short: a search that is made for long texts takes longer.
    if !name.bytes().any(|byte| byte == b'_') {
        return false;
    }
    let dashed = name.replace('_', "-");
    is_claim(&dashed) || RESERVED.contains(&&*dashed) || headers.contains_key(&dashed)
}

/// Whether a field is there: to look at the few that there are costs less than to hash the name of this one.
pub(super) fn is_there(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|it| it == name)
}

/// Takes off a field that is seldom there.
pub(super) fn remove_rare(headers: &mut HeaderMap, name: &HeaderName) {
    if is_there(headers, name) {
        headers.remove(name);
    }
}

/// Whether some field has more than one value.
pub(super) fn has_repeated(headers: &HeaderMap) -> bool {
    headers.len() > headers.keys_len()
}

/// Takes off what only a proxy may say, and what could be taken for that.
pub(super) fn remove_claims(headers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_claim(name.as_str()) || collides(name.as_str(), headers))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
}

/// Takes off what a server that takes `_` for `-` would take for `name`, which a route is about to change.
pub(crate) fn remove_lookalikes(headers: &mut HeaderMap, name: &HeaderName) {
    let is_lookalike = |other: &&HeaderName| *other != name && is_alike(other, name);
    while let Some(other) = headers.keys().find(is_lookalike).cloned() {
        headers.remove(other);
    }
}

fn is_alike(one: &HeaderName, other: &HeaderName) -> bool {
    let dashed = |byte| if byte == b'_' { b'-' } else { byte };
    let (one, other) = (one.as_str(), other.as_str());
    one.len() == other.len() && one.bytes().map(dashed).eq(other.bytes().map(dashed))
}

/// Makes one field of the cookies that HTTP/2 has spread over several: RFC 9113, 8.2.3.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    if !has_repeated(headers) {
        return;
    }
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::try_from(cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// What a field lists, in all its values.
pub(super) fn listed<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h str> + use<'h> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Takes off what may not follow a body, in either direction.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_claims(trailers);
    super::remove_hop_by_hop(trailers);
    for name in &NOT_IN_TRAILERS {
        trailers.remove(name);
    }
    trim(trailers);
}

/// Cuts off white space around values. gRPC puts messages into fields as they are, with what stands at their ends.
pub(super) fn trim(headers: &mut HeaderMap) {
    for value in headers.values_mut().filter(|value| !is_trimmed(value)) {
        if let Ok(trimmed) = HeaderValue::from_bytes(value.as_bytes().trim_ascii()) {
            *value = trimmed;
        }
    }
}

/// Whether every value begins and ends with what is no white space. HTTP/1.1 cuts it off, HTTP/2 does not: RFC 9113, 8.2.1.
pub(super) fn are_trimmed(headers: &HeaderMap) -> bool {
    headers.values().all(is_trimmed)
}

fn is_trimmed(value: &HeaderValue) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    !is_blank(bytes.first()) && !is_blank(bytes.last())
}

/// Why a body's length cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclear(pub(super) &'static str);

/// Whether a head tells the length of its body in exactly one way: `transfer-encoding` absent or once exactly `chunked`,
/// `content-length` absent or one number, never both. RFC 9112, 6.
pub(super) fn check_framing(headers: &HeaderMap) -> Result<(), Unclear> {
    if !is_there(headers, &header::TRANSFER_ENCODING) && !is_there(headers, &header::CONTENT_LENGTH)
    {
        return Ok(());
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    let is_one = codings.next().is_none();
    if coding.is_some_and(|coding| !is_one || !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Unclear("transfer-encoding is not exactly chunked"));
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(());
    };
    if coding.is_some() {
        return Err(Unclear("both transfer-encoding and content-length"));
    }
    let is_number = !length.is_empty()
        && length.as_bytes().iter().all(u8::is_ascii_digit)
        && length
            .to_str()
            .is_ok_and(|text| text.parse::<u64>().is_ok());
    if !is_number || lengths.any(|other| other != length) {
        return Err(Unclear("content-length is not one number"));
    }
    Ok(())
}

/// Writes a length that was said several times once. Called after [`check_framing`].
pub(super) fn merge_lengths(headers: &mut HeaderMap) {
    if !has_repeated(headers) {
        return;
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let (Some(length), Some(_)) = (lengths.next().cloned(), lengths.next()) {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

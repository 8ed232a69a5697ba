//! What the proxy adds to a request: who sent it, and names by which it can be followed.

use http::header::{HeaderMap, HeaderName, HeaderValue};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest request id that is passed on.
const MAX_REQUEST_ID: usize = 128;

/// What the proxy adds to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Additions<'a> {
    /// The caller's address.
    pub(crate) caller: Option<&'a HeaderValue>,
    /// For names that must be made.
    pub(crate) random: fn() -> u128,
}

/// Puts it on.
pub(super) fn add(headers: &mut HeaderMap, additions: Additions<'_>) {
    if let Some(caller) = additions.caller {
        headers.insert(FORWARDED_FOR, caller.clone());
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
        if let Ok(value) = HeaderValue::from_bytes(&traceparent(trace, parent)) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

/// A context of version 00, not sampled: whoever records traces decides for itself.
fn traceparent(trace: u128, parent: u64) -> [u8; 55] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let nibbles = |number: u128, digits: u32| {
        let shifts = (0..digits).rev().map(|place| place * 4);
        shifts.map(move |shift| (number >> shift) & 0xf)
    };
    let places = (3..35).chain(36..52);
    for (place, nibble) in places.zip(nibbles(trace, 32).chain(nibbles(parent.into(), 16))) {
        if let (Some(byte), Ok(nibble)) = (text.get_mut(place), u32::try_from(nibble)) {
            *byte = char::from_digit(nibble, 16).map_or(b'0', |digit| digit as u8);
        }
    }
    text
}

/// Version 00 of the W3C trace context: `00-TRACE-PARENT-FLAGS`, neither id zero.
pub(super) fn is_traceparent(value: &[u8]) -> bool {
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

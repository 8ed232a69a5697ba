//! What the proxy adds to a request: who sent it, and names by which it can be followed.

use http::header::{Entry, HeaderMap, HeaderName, HeaderValue};
use uuid::fmt::{Hyphenated, Simple};
use uuid::{Builder, Uuid};

use super::fields;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The name that a request is followed by.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
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
    let is_sound = |id: &[u8]| !id.is_empty() && id.len() <= MAX_REQUEST_ID;
    keep_or_make(headers.entry(REQUEST_ID), is_sound, || {
        let id = Builder::from_random_bytes((additions.random)().to_ne_bytes()).into_uuid();
        let mut text = [0; Hyphenated::LENGTH];
        HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut text)).ok()
    });
    let is_new = keep_or_make(headers.entry(TRACEPARENT), is_traceparent, || {
        let trace = (additions.random)().max(1);
        let parent = u64::try_from((additions.random)() >> 64).unwrap_or(1);
        HeaderValue::try_from(traceparent(trace, parent.max(1))).ok()
    });
    if is_new {
        fields::remove_rare(headers, &TRACESTATE);
    }
}

/// Keeps a value that is sound, else makes one; tells whether it did. No other request has this value. Unmarked, HTTP/2
/// would keep it in its table of fields, in the place of those that come again, and compare it with all of its kind that
/// are there; what is marked stays out of the table (RFC 7541, 6.2.3).
fn keep_or_make(
    entry: Entry<'_, HeaderValue>,
    is_sound: impl Fn(&[u8]) -> bool,
    make: impl FnOnce() -> Option<HeaderValue>,
) -> bool {
    let made = || {
        let mut value = make()?;
        value.set_sensitive(true);
        Some(value)
    };
    match entry {
        Entry::Occupied(mut entry) if is_sound(entry.get().as_bytes()) => {
            entry.get_mut().set_sensitive(true);
            false
        }
        Entry::Occupied(mut entry) => made().map(|value| entry.insert(value)).is_some(),
        Entry::Vacant(entry) => made().map(|value| entry.insert(value)).is_some(),
    }
}

/// A context of version 00, not sampled: whoever records traces decides for itself.
fn traceparent(trace: u128, parent: u64) -> String {
    let (trace, parent) = (Uuid::from_u128(trace), Uuid::from_u64_pair(parent, 0));
    let mut digits = [[0; Simple::LENGTH]; 2];
    let [trace_digits, parent_digits] = &mut digits;
    let trace = trace.as_simple().encode_lower(trace_digits);
    let parent = parent.as_simple().encode_lower(parent_digits);
    // The upper half.
    let parent = parent.get(..Simple::LENGTH / 2).unwrap_or_default();
    ["00-", trace, "-", parent, "-00"].concat()
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

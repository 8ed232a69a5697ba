//! What may stand in an object and ends up in HTTP messages: names and values of headers, paths, methods, hosts.

use std::net::IpAddr;

use super::bound;
use crate::state::route::{NameMatch, StringMatchType};
use crate::state::{Refusal, expression};

/// Methods that routes know (Gateway API, `HTTPMethod`).
pub(super) const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
/// Longest name of a header or parameter (Gateway API, `HTTPHeaderName`).
const MAX_NAME: usize = 256;
/// Longest value of a header (Gateway API, `HTTPHeader`).
pub(super) const MAX_VALUE: usize = 4096;
/// Longest path (Gateway API, `HTTPPathMatch`), and value of a parameter.
pub(super) const MAX_PATH: usize = 1024;

/// A token (RFC 9110, 5.6.2): what names a header, parameter or cookie.
pub(super) fn token(field: &str, text: &str) -> Result<(), Refusal> {
    bound::length(field, text, 1..=MAX_NAME)?;
    if text.bytes().all(is_token_byte) {
        return Ok(());
    }
    Err(Refusal::invalid(
        field,
        "letters, digits and !#$%&'*+-.^_`|~ only",
    ))
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// A value of a header that is sent as it stands (RFC 9110, 5.5).
pub(super) fn header_value(field: &str, text: &str) -> Result<(), Refusal> {
    bound::length(field, text, 1..=MAX_VALUE)?;
    let is_sendable = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    if !text.bytes().all(is_sendable) {
        return Err(Refusal::invalid(field, "a value has no control characters"));
    }
    if text.trim_matches([' ', '\t']).len() != text.len() {
        return Err(Refusal::invalid(
            field,
            "a value has no white space at its ends",
        ));
    }
    Ok(())
}

/// A regular expression for a whole text.
pub(super) fn regular_expression(field: &str, pattern: &str) -> Result<(), Refusal> {
    match expression::compile(pattern) {
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::invalid(
            field,
            format!("no usable regular expression: {error}"),
        )),
    }
}

/// Matches of headers (`is_header`) or query parameters: names are there once. Of headers whose names differ in case the
/// first counts.
pub(super) fn name_matches(
    field: &str,
    matches: &[NameMatch],
    is_header: bool,
) -> Result<(), Refusal> {
    bound::at_most(field, matches, 16)?;
    let most = if is_header { MAX_VALUE } else { MAX_PATH };
    for (index, it) in matches.iter().enumerate() {
        let field = format!("{field}[{index}]");
        token(&format!("{field}.name"), &it.name)?;
        let value_field = format!("{field}.value");
        bound::length(&value_field, &it.value, 1..=most)?;
        if it.kind == StringMatchType::RegularExpression {
            regular_expression(&value_field, &it.value)?;
        }
    }
    if let Some(index) = bound::repeated(matches.iter().map(|it| &it.name)) {
        let field = format!("{field}[{index}].name");
        return Err(Refusal::invalid(field, "each name only once"));
    }
    Ok(())
}

/// A method that routes know.
pub(super) fn method(field: &str, method: &str) -> Result<(), Refusal> {
    if METHODS.contains(&method) {
        return Ok(());
    }
    Err(Refusal::invalid(
        field,
        format!("one of {}, in capitals", METHODS.join(", ")),
    ))
}

/// A path or prefix to compare with (Gateway API, `HTTPPathMatch`): as it is after normalisation.
pub(super) fn match_path(field: &str, path: &str) -> Result<(), Refusal> {
    absolute_path(field, path)?;
    // A dot needs no escape, and is read as one.
    let lower = path.to_ascii_lowercase().replace("%2e", ".");
    let never = ["//", "/./", "/../", "%2f"];
    if let Some(never) = never.iter().find(|it| lower.contains(**it)) {
        return Err(Refusal::invalid(
            field,
            format!("a path without `{never}`: requests never have it after normalisation"),
        ));
    }
    if lower.ends_with("/..") || lower.ends_with("/.") {
        return Err(Refusal::invalid(field, "a path does not end in dots"));
    }
    Ok(())
}

/// A path that can be sent: `/`, and characters that need no escape (RFC 3986, `pchar`).
pub(super) fn absolute_path(field: &str, path: &str) -> Result<(), Refusal> {
    bound::length(field, path, 1..=MAX_PATH)?;
    if !path.starts_with('/') {
        return Err(Refusal::invalid(field, "a path starts with `/`"));
    }
    sendable_path(field, path)
}

/// Characters of a path, with valid escapes.
pub(super) fn sendable_path(field: &str, path: &str) -> Result<(), Refusal> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte);
    let mut rest = path.as_bytes();
    loop {
        rest = match rest {
            [] => return Ok(()),
            [b'%', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                after
            }
            [byte, after @ ..] if is_plain(*byte) => after,
            _ => {
                return Err(Refusal::invalid(
                    field,
                    "letters, digits, -._~!$&'()*+,;=:@/ and escapes such as %20 only",
                ));
            }
        }
    }
}

/// Most hosts that a route for requests is for.
pub(super) const MAX_HOSTNAMES: usize = 16;

/// Hosts that a route is for, at most `most`: DNS names, of which the first label may be `*`.
pub(super) fn hostnames(hostnames: &[String], most: usize) -> Result<(), Refusal> {
    bound::at_most("spec.hostnames", hostnames, most)?;
    for (index, name) in hostnames.iter().enumerate() {
        let field = format!("spec.hostnames[{index}]");
        hostname(&field, name.strip_prefix("*.").unwrap_or(name))?;
    }
    Ok(())
}

/// A DNS name, and no address.
pub(super) fn hostname(field: &str, name: &str) -> Result<(), Refusal> {
    super::name::subdomain(field, name)?;
    if name.parse::<IpAddr>().is_ok() {
        return Err(Refusal::invalid(field, "a name, not an address"));
    }
    Ok(())
}

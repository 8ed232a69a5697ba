//! Names as RFC 1123 has them, and keys and values of labels as Kubernetes has them.

use crate::state::Refusal;

/// A DNS label: at most 63 of `a-z`, `0-9` and `-`, with a letter or digit at both ends.
pub(super) fn label(field: &str, text: &str) -> Result<(), Refusal> {
    if is_label(text) {
        return Ok(());
    }
    Err(Refusal::invalid(
        field,
        "a DNS label: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends",
    ))
}

/// DNS labels joined by dots, at most 253 bytes.
pub(super) fn subdomain(field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() <= 253 && text.split('.').all(is_label) {
        return Ok(());
    }
    Err(Refusal::invalid(
        field,
        "a DNS name: labels of a-z, 0-9 and -, joined by dots, at most 253 bytes",
    ))
}

/// A key of a label: a name of at most 63 bytes, after an optional `subdomain/`.
pub(super) fn label_key(field: &str, text: &str) -> Result<(), Refusal> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            subdomain(field, prefix)?;
            name
        }
        None => text,
    };
    if !name.is_empty() && is_qualified(name) {
        return Ok(());
    }
    Err(Refusal::invalid(
        field,
        "a key: 1 to 63 of letters, digits, -, _ and ., with a letter or digit at both ends, after an optional DNS name and /",
    ))
}

/// A value of a label: at most 63 bytes, may be empty.
pub(super) fn label_value(field: &str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() || is_qualified(text) {
        return Ok(());
    }
    Err(Refusal::invalid(
        field,
        "a value: at most 63 of letters, digits, -, _ and ., with a letter or digit at both ends",
    ))
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_qualified(text: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && is_end(text.bytes().next())
        && is_end(text.bytes().last())
}

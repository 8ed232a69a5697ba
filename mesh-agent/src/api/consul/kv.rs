//! Keys and values: the settings of services.
//!
//! The key `NAMESPACE/SERVICE/NAME` is the setting NAME in the configuration of that service, where there is one. Any
//! other key is a setting of the service `kv` of the asked namespace, which is made for them and is never dialled. A key
//! that was written before its service came is found all the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::failure::Failure;
use super::views::Look;
use crate::state::Snapshot;
use crate::state::object::ObjectKey;
use crate::state::service::{Service, SettingStatus};

/// Where keys are, in the table of routes.
pub(super) const PATH: &str = "/v1/kv/{*argument}";

/// The service that holds keys of no service.
pub(super) const HOLDER: &str = "kv";

/// Where a setting is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its service.
    pub(super) service: ObjectKey,
    /// Its name there.
    pub(super) name: String,
}

/// A setting, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) place: Place,
    pub(super) value: String,
    pub(super) status: SettingStatus,
}

/// Where a key is written to.
pub(super) fn place(snapshot: &Snapshot, namespace: &str, key: &str) -> Place {
    let mut parts = key.splitn(3, '/');
    if let (Some(first), Some(second), Some(name)) = (parts.next(), parts.next(), parts.next())
        && !name.is_empty()
    {
        let service = ObjectKey::new(first, second);
        if second != HOLDER && snapshot.services.contains_key(&service) {
            let name = name.to_owned();
            return Place { service, name };
        }
    }
    Place {
        service: ObjectKey::new(namespace, HOLDER),
        name: key.to_owned(),
    }
}

/// The settings whose keys begin so; those of a service come before those that were written before it came.
pub(super) fn settings(
    snapshot: &Snapshot,
    namespace: &str,
    prefix: &str,
) -> BTreeMap<String, Setting> {
    let mut found = BTreeMap::new();
    if let Some(holder) = snapshot.services.get(&ObjectKey::new(namespace, HOLDER)) {
        collect(&mut found, holder, "", prefix);
    }
    for (key, service) in &snapshot.services {
        let before = format!("{}/{}/", key.namespace, key.name);
        let is_met = before.starts_with(prefix) || prefix.starts_with(&before);
        if is_met && key.name != HOLDER {
            collect(&mut found, service, &before, prefix);
        }
    }
    found
}

fn collect(found: &mut BTreeMap<String, Setting>, service: &Service, before: &str, prefix: &str) {
    for (name, value) in &service.spec.configuration {
        let key = format!("{before}{name}");
        if !key.starts_with(prefix) {
            continue;
        }
        let status = service.status.configuration.get(name).copied();
        let setting = Setting {
            place: Place {
                service: service.key(),
                name: name.clone(),
            },
            value: value.clone(),
            status: status.unwrap_or(SettingStatus {
                created: 1,
                modified: 1,
            }),
        };
        found.insert(key, setting);
    }
}

/// The setting of one key.
pub(super) fn setting(snapshot: &Snapshot, namespace: &str, key: &str) -> Option<Setting> {
    settings(snapshot, namespace, key).remove(key)
}

/// `GET /v1/kv/KEY`, `?recurse`, `?keys`, `?separator`.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the views of a table have one signature"
)]
pub(super) fn read(look: &Look<'_>) -> Result<Value, Failure> {
    let question = look.question;
    let (namespace, key) = (&question.namespace, look.argument);
    let settings = |snapshot: &Snapshot, namespace: &str, prefix: &str| {
        let mut found = settings(snapshot, namespace, prefix);
        let may = |it: &Setting| {
            look.scope
                .is_none_or(|own| own.namespace == it.place.service.namespace)
        };
        found.retain(|_, it| may(it));
        found
    };
    if question.flag("keys") {
        let found = settings(look.snapshot, namespace, key);
        let separator = question.text("separator");
        let mut keys: Vec<String> = found
            .into_keys()
            .map(|it| cut(it, key, separator))
            .collect();
        keys.dedup();
        return Ok(or_absent(keys.into()));
    }
    if question.flag("recurse") {
        let found = settings(look.snapshot, namespace, key);
        let items = found.iter().map(|(key, it)| item(key, it));
        return Ok(or_absent(items.collect()));
    }
    let found = settings(look.snapshot, namespace, key).remove(key);
    Ok(found.map_or(Value::Null, |it| json!([item(key, &it)])))
}

/// A key up to the first separator after the prefix.
fn cut(key: String, prefix: &str, separator: Option<&str>) -> String {
    let end = separator.and_then(|separator| {
        let rest = key.strip_prefix(prefix)?;
        Some(prefix.len() + rest.find(separator)? + separator.len())
    });
    match end.and_then(|end| key.get(..end)) {
        Some(part) => part.to_owned(),
        None => key,
    }
}

/// Nothing at all is no list, but an absence.
fn or_absent(list: Value) -> Value {
    let is_empty = list.as_array().is_some_and(Vec::is_empty);
    if is_empty { Value::Null } else { list }
}

fn item(key: &str, setting: &Setting) -> Value {
    json!({
        "LockIndex": 0,
        "Key": key,
        "Flags": 0,
        "Value": base64(setting.value.as_bytes()),
        "CreateIndex": setting.status.created,
        "ModifyIndex": setting.status.modified,
    })
}

/// The value of the first item of an answer.
pub(super) fn raw(body: &Value) -> Vec<u8> {
    let text = body.pointer("/0/Value").and_then(Value::as_str);
    text.map(unbase64).unwrap_or_default()
}

/// What [`base64`] has made a text of.
fn unbase64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0_u32, 0_u32);
    for byte in text.bytes() {
        let Some(digit) = ALPHABET.iter().position(|it| *it == byte) else {
            break;
        };
        word = (word << 6) | u32::try_from(digit).unwrap_or(0);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((word >> bits) & 0xff).unwrap_or(0));
        }
    }
    bytes
}

/// Base 64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for place in 0..4_usize {
            if place > chunk.len() {
                text.push('=');
                continue;
            }
            let digit = (word >> (18 - 6 * place)) & 63;
            let digit = ALPHABET.get(digit as usize).copied().unwrap_or(b'A');
            text.push(char::from(digit));
        }
    }
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, wanted) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), wanted);
            assert_eq!(unbase64(wanted), text.as_bytes());
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn keys_are_cut_after_the_separator() {
        let cut = |key: &str| cut(key.to_owned(), "a/", Some("/"));
        assert_eq!(cut("a/b/c"), "a/b/");
        assert_eq!(cut("a/b"), "a/b");
    }
}

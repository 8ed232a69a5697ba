//! Keys and values: the settings of services.
//!
//! The key `NAMESPACE/SERVICE/NAME` is the setting NAME in the configuration of that service, where there is one. Any
//! other key is a setting of the service `kv` of the asked namespace, which is made for them and is never dialled. A key
//! that was written before its service came is found all the same.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::failure::Failure;
use super::question::Question;
use super::views::Look;
use super::wakeup::Subject;
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
    for service in services(snapshot, prefix) {
        let before = format!("{}/{}/", service.metadata.namespace, service.metadata.name);
        if service.metadata.name != HOLDER {
            collect(&mut found, service, &before, prefix);
        }
    }
    found
}

/// The services that have the keys of a prefix.
fn services<'a>(snapshot: &'a Snapshot, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Service>> {
    let mut parts = prefix.splitn(3, '/');
    let namespace = parts.next().unwrap_or_default();
    let (name, rest) = (parts.next(), parts.next());
    let first = ObjectKey::new(namespace, name.unwrap_or_default());
    let is_met = move |key: &ObjectKey| match (name, rest) {
        (None, _) => key.namespace.starts_with(namespace),
        (Some(name), None) => key.namespace == namespace && key.name.starts_with(name),
        (Some(name), Some(_)) => key.namespace == namespace && key.name == name,
    };
    let services = snapshot.services.range(first..);
    let met = services.take_while(move |(key, _)| is_met(key));
    met.map(|(_, service)| service)
}

/// Whose writes may change what a question is answered.
pub(super) fn subjects(question: &Question, key: &str) -> Vec<Subject> {
    let holder = Subject::Service(ObjectKey::new(&question.namespace, HOLDER));
    let mut parts = key.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(name), Some(_)) => {
            vec![holder, Subject::Service(ObjectKey::new(namespace, name))]
        }
        _ if question.flag("keys") || question.flag("recurse") => vec![Subject::Services],
        _ => vec![holder],
    }
}

fn collect(found: &mut BTreeMap<String, Setting>, service: &Service, before: &str, prefix: &str) {
    // What is left of the prefix, where it says more than the service.
    let begin = prefix.strip_prefix(before).unwrap_or_default();
    let range = (Bound::Included(begin), Bound::Unbounded);
    let settings = service.spec.configuration.range::<str, _>(range);
    for (name, value) in settings.take_while(|(name, _)| name.starts_with(begin)) {
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
        found.insert(format!("{before}{name}"), setting);
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
        "Value": STANDARD.encode(&setting.value),
        "CreateIndex": setting.status.created,
        "ModifyIndex": setting.status.modified,
    })
}

/// The value of the first item of an answer.
pub(super) fn raw(body: &Value) -> Vec<u8> {
    let text = body.pointer("/0/Value").and_then(Value::as_str);
    let bytes = text.and_then(|it| STANDARD.decode(it).ok());
    bytes.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::object::Kind;
    use crate::state::{Change, Store, decode};

    fn put(store: &Store, namespace: &str, name: &str, settings: &[&str]) {
        let settings: BTreeMap<_, _> = settings.iter().map(|it| (*it, "1")).collect();
        let spec = json!({"portless": true, "ports": [], "configuration": settings});
        let key = ObjectKey::new(namespace, name);
        let manifest = decode::manifest(Kind::Service, &key, json!({ "spec": spec }));
        let change = Change::Put(manifest.expect("it is right"));
        store.apply(change).expect("it is right");
    }

    #[test]
    fn a_prefix_finds_what_begins_so() {
        let store = Store::in_memory();
        put(&store, "shop", HOLDER, &["a", "shop/late/x", "shopping"]);
        put(&store, "shop", "web", &["a", "b/c", "b"]);
        put(&store, "shop", "web-2", &["a"]);
        put(&store, "shopper", "web", &["a"]);
        let snapshot = store.snapshot();
        let found = |prefix: &str| -> Vec<String> {
            settings(&snapshot, "shop", prefix).into_keys().collect()
        };
        let all = found("");
        assert_eq!(all.len(), 8, "{all:?}");
        for key in &all {
            for end in 0..=key.len() {
                let prefix = &key[..end];
                let begins = all.iter().filter(|it| it.starts_with(prefix));
                assert_eq!(
                    found(prefix),
                    begins.cloned().collect::<Vec<_>>(),
                    "{prefix}"
                );
            }
        }
        assert!(found("shop/web/c").is_empty() && found("other").is_empty());
    }

    #[test]
    fn who_waits_for_a_key_waits_for_its_services_only() {
        let ask = |key: &str, flag: &str| {
            let flags = Some(flag.to_owned()).filter(|it| !it.is_empty());
            let pairs = flags.into_iter().map(|it| (it, String::new()));
            let question = Question::read(pairs.collect(), "default").map_err(|it| it.text);
            subjects(&question.expect("it is right"), key)
        };
        let service = |namespace, name| Subject::Service(ObjectKey::new(namespace, name));
        let holder = service("default", HOLDER);
        let both = [holder.clone(), service("shop", "web")];
        assert_eq!(ask("shop/web/a/b", ""), both);
        assert_eq!(ask("shop/web/", "recurse"), both);
        assert_eq!(ask("shop/web", ""), [holder]);
        assert_eq!(ask("shop/web", "recurse"), [Subject::Services]);
        assert_eq!(ask("", "keys"), [Subject::Services]);
    }

    #[test]
    fn keys_are_cut_after_the_separator() {
        let cut = |key: &str| cut(key.to_owned(), "a/", Some("/"));
        assert_eq!(cut("a/b/c"), "a/b/");
        assert_eq!(cut("a/b"), "a/b");
    }
}

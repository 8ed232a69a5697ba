//! Writing keys: `PUT` and `DELETE` of `/v1/kv/KEY`, with check-and-set.

use serde_json::Value;

use super::failure::Failure;
use super::kv::{self, Setting};
use super::made;
use super::write::Writer;
use crate::state::object::ObjectKey;
use crate::state::registration;
use crate::state::service::Service;
use crate::state::{Change, Manifest, Refusal};

/// How often a write is made anew when somebody else was faster.
const TRIES: usize = 5;

/// Whether a write may go on that wants the key at an index: 0 where it must not be there.
fn is_at(setting: Option<&Setting>, wanted: Option<u64>) -> bool {
    match (setting, wanted) {
        (_, None) | (None, Some(0)) => true,
        (Some(setting), Some(index)) => setting.status.modified == index,
        (None, Some(_)) => false,
    }
}

fn cas(writer: &Writer) -> Result<Option<u64>, Failure> {
    let text = writer.question.text("cas");
    text.map(|it| it.parse().map_err(|_not| Failure::bad("Invalid cas")))
        .transpose()
}

/// `PUT /v1/kv/KEY`.
pub(super) fn put(writer: &Writer, body: &[u8]) -> Result<Option<Value>, Failure> {
    let question = &writer.question;
    if question.text("acquire").is_some() || question.text("release").is_some() {
        return Err(Failure::bad("sessions are not supported: use cas"));
    }
    if question.text("flags").is_some_and(|it| it != "0") {
        return Err(Failure::bad("flags other than 0 are not supported"));
    }
    let key = key(writer)?;
    let value = std::str::from_utf8(body).map_err(|_not| {
        Failure::bad("a value is UTF-8 text: encode what is not, for example in base 64")
    })?;
    let wanted = cas(writer)?;
    for _ in 0..TRIES {
        let snapshot = writer.context.store.snapshot();
        let known = kv::setting(&snapshot, &question.namespace, key);
        if !is_at(known.as_ref(), wanted) {
            return Ok(Some(Value::Bool(false)));
        }
        let place = known.map_or_else(
            || kv::place(&snapshot, &question.namespace, key),
            |it| it.place,
        );
        may(writer, &place.service)?;
        let mut service = match snapshot.services.get(&place.service) {
            Some(service) => Service::clone(service),
            None => registration::made(&place.service, std::collections::BTreeSet::new(), &[]),
        };
        let settings = &mut service.spec.configuration;
        settings.insert(place.name, value.to_owned());
        if write(writer, service)? {
            return Ok(Some(Value::Bool(true)));
        }
    }
    Ok(Some(Value::Bool(false)))
}

/// `DELETE /v1/kv/KEY`, `?recurse`.
pub(super) fn delete(writer: &Writer, _body: &[u8]) -> Result<Option<Value>, Failure> {
    let namespace = &writer.question.namespace;
    let wanted = cas(writer)?;
    let is_recursive = writer.question.flag("recurse");
    if !is_recursive {
        key(writer)?;
    }
    for _ in 0..TRIES {
        let snapshot = writer.context.store.snapshot();
        let mut found = kv::settings(&snapshot, namespace, &writer.argument);
        found.retain(|key, _| is_recursive || *key == writer.argument);
        if wanted.is_some() && !is_at(found.get(&writer.argument), wanted) {
            return Ok(Some(Value::Bool(false)));
        }
        // In a recursion one service after the other: each is one write.
        let mut done = true;
        while let Some(first) = found.values().next() {
            let owner = first.place.service.clone();
            may(writer, &owner)?;
            let Some(service) = snapshot.services.get(&owner) else {
                found.retain(|_, it| it.place.service != owner);
                continue;
            };
            let mut service = Service::clone(service);
            for setting in found.values().filter(|it| it.place.service == owner) {
                service.spec.configuration.remove(&setting.place.name);
            }
            found.retain(|_, it| it.place.service != owner);
            done &= write(writer, service)?;
            // One that was made for keys or endpoints goes with the last of both.
            made::follow(&writer.context, &owner, "")?;
        }
        if done {
            return Ok(Some(Value::Bool(true)));
        }
    }
    Ok(Some(Value::Bool(false)))
}

/// Writes a service as it was read and changed; `false`: somebody else was faster.
fn write(writer: &Writer, service: Service) -> Result<bool, Failure> {
    let change = Change::Put(Manifest::Service(service.into()));
    match writer.context.writer.apply_blocking(change) {
        Ok(_) => Ok(true),
        Err(Refusal::Conflict { .. }) => Ok(false),
        Err(refusal) => Err(refusal.into()),
    }
}

fn key(writer: &Writer) -> Result<&str, Failure> {
    let key = writer.argument.as_str();
    if key.is_empty() {
        return Err(Failure::bad("Missing key name"));
    }
    Ok(key)
}

fn may(writer: &Writer, service: &ObjectKey) -> Result<(), Failure> {
    let scope = writer.scope.as_ref();
    let snapshot = writer.context.store.snapshot();
    scope.map_or(Ok(()), |scope| scope.may_configure(&snapshot, service))
}

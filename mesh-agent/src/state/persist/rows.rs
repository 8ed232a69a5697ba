//! From the rows of the file to a snapshot.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use super::{
    IDS, META, META_LAST_ID, META_NEW, META_REVISION, META_SCHEMA, OBJECTS, OpenError, SCHEMA,
};
use crate::state::Snapshot;
use crate::state::id::{Ids, Subject};
use crate::state::object::{Kind, ObjectKey};
use crate::state::resource::{Resource, with_kind};

/// Everything that the file holds.
#[derive(Default)]
pub(super) struct Rows {
    objects: Vec<(String, Vec<u8>)>,
    ids: Vec<(u32, Vec<u8>)>,
    schema: u64,
    pub(super) revision: u64,
    last_id: u64,
    pub(super) is_new: bool,
}

pub(super) fn read(database: &Database) -> Result<Rows, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |name| meta.get(name).map(|row| row.map_or(0, |row| row.value()));
    let mut rows = Rows {
        schema: number(META_SCHEMA)?,
        revision: number(META_REVISION)?,
        last_id: number(META_LAST_ID)?,
        is_new: number(META_NEW)? != 0,
        ..Rows::default()
    };
    if rows.schema != SCHEMA {
        return Ok(rows);
    }
    for row in transaction.open_table(OBJECTS)?.iter()? {
        let (key, value) = row?;
        rows.objects
            .push((key.value().to_owned(), value.value().to_owned()));
    }
    for row in transaction.open_table(IDS)?.iter()? {
        let (key, value) = row?;
        rows.ids.push((key.value(), value.value().to_owned()));
    }
    Ok(rows)
}

pub(super) fn snapshot(path: &Path, rows: Rows) -> Result<Snapshot, OpenError> {
    if rows.schema != SCHEMA {
        return Err(OpenError::Schema {
            path: path.to_owned(),
            found: rows.schema,
        });
    }
    let unreadable = |row: String, source| OpenError::Row {
        path: path.to_owned(),
        row,
        source,
    };
    let mut snapshot = Snapshot {
        revision: rows.revision,
        ..Snapshot::default()
    };
    for (key, json) in rows.objects {
        restore(&mut snapshot, &key, &json)
            .map_err(|source| unreadable(format!("objects/{key}"), source))?;
    }
    let mut numbers = BTreeMap::new();
    for (number, json) in rows.ids {
        let subject: Subject = serde_json::from_slice(&json)
            .map_err(|source| unreadable(format!("ids/{number}"), source))?;
        numbers.insert(subject, number);
    }
    let last = u32::try_from(rows.last_id).unwrap_or(u32::MAX);
    snapshot.ids = Ids::restore(last, numbers);
    Ok(snapshot)
}

fn restore(snapshot: &mut Snapshot, row: &str, json: &[u8]) -> Result<(), serde_json::Error> {
    let kind = row.split('/').next().unwrap_or_default();
    let kind = Kind::ALL.into_iter().find(|it| it.name() == kind);
    let kind = kind.ok_or_else(|| serde::de::Error::custom("unknown kind"))?;
    with_kind!(kind, R => insert::<R>(snapshot, json).map(drop))
}

/// Adds an object, and says its version.
pub(super) fn insert<R: Resource>(
    snapshot: &mut Snapshot,
    json: &[u8],
) -> Result<String, serde_json::Error> {
    let object: R = serde_json::from_slice(json)?;
    let metadata = object.metadata();
    let key = ObjectKey::new(&metadata.namespace, &metadata.name);
    let version = metadata.resource_version.clone();
    // A copy has no room to grow, as what was read from JSON has: 100,000 endpoints are a tenth smaller.
    R::all_mut(snapshot).insert(key, Arc::new(R::clone(&object)));
    Ok(version)
}

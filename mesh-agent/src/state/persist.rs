//! The registry on disk: one redb file, written in one transaction per change.
//!
//! A file that cannot be read is never touched: the registry is what the pinned maps of the kernel were made from,
//! and an empty one would take every service away. `--reset` sets it aside; `--restore` makes it anew from the last export.

mod error;
pub(super) mod export;
mod rows;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, StorageError, TableDefinition, WriteTransaction};
use serde::Serialize;

pub use error::OpenError;
pub use export::{EXPORT_NAME, ExportError, OLD_EXPORT_NAME};

use super::change::NoticeKind;
use super::draft::Draft;
use super::{Manifest, Refusal, Snapshot};

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "registry.redb";
/// Name of what `--reset` has set aside.
pub const SET_ASIDE_NAME: &str = "registry.redb.old";
/// Layout of the tables.
const SCHEMA: u64 = 1;
/// Memory for pages: the registry is read once.
const CACHE_BYTES: usize = 4 << 20;

/// `Kind/namespace/name` -> the object as JSON.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Number -> the [`Subject`](super::id::Subject) as JSON.
const IDS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("ids");
/// The rows below.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_SCHEMA: &str = "schema";
const META_REVISION: &str = "revision";
const META_LAST_ID: &str = "last-id";
/// There while nobody has found that nothing is lost by a registry that was made empty.
const META_NEW: &str = "new";

/// What a start does with what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// It goes on with it, or is refused.
    #[default]
    Keep,
    /// It sets it aside, and begins anew.
    Reset,
    /// It goes on with it, or sets it aside and goes back to the last export where it is damaged or gone, or was made
    /// in place of one that is gone.
    Restore,
}

/// The open file.
pub(super) struct Disk {
    path: PathBuf,
    /// `None` after a failed write: the database refuses everything from then on, and is opened again.
    database: Option<Database>,
    /// Keeps other agents out, also while the file is set aside or opened again. Dropped last.
    _lock: File,
}

/// What a start finds.
pub(super) struct Loaded {
    pub(super) disk: Disk,
    pub(super) snapshot: Snapshot,
    /// Whether there was none, now or at an earlier start that [`Disk::settle`] has not followed.
    pub(super) is_new: bool,
    /// Whether it was made from the export.
    pub(super) is_restored: bool,
}

/// Opens, makes or restores the registry in `directory`.
pub(super) fn start(directory: &Path, start: Start) -> Result<Loaded, OpenError> {
    match start {
        Start::Keep => open(directory, false),
        Start::Reset => open(directory, true),
        Start::Restore => restore(directory),
    }
}

/// Opens the registry in `directory`, or makes it anew from the export.
fn restore(directory: &Path) -> Result<Loaded, OpenError> {
    let path = directory.join(FILE_NAME);
    let has_export = export::is_there(directory);
    let refused = if path.exists() {
        match open(directory, false) {
            Err(refused) if refused.is_about_contents() => refused.to_string(),
            Ok(opened) if opened.is_in_place_of_another() && has_export => {
                drop(opened);
                format!("{} was made in place of one that is gone", path.display())
            }
            opened => return opened,
        }
    } else if has_export {
        format!("{} is gone", path.display())
    } else {
        return open(directory, false);
    };
    let exported =
        export::read(directory).map_err(|source| OpenError::Export { refused, source })?;
    let mut loaded = open(directory, true)?;
    let written = loaded.disk.replace(&exported);
    written.map_err(|source| OpenError::Restore {
        path,
        source: Box::new(source),
    })?;
    loaded.snapshot = exported;
    loaded.is_new = false;
    loaded.is_restored = true;
    Ok(loaded)
}

/// Opens or makes the registry in `directory`; with `reset`, sets aside what is there first.
pub(super) fn open(directory: &Path, reset: bool) -> Result<Loaded, OpenError> {
    let path = directory.join(FILE_NAME);
    let access = |source| OpenError::Access {
        path: path.clone(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(access)?;
    let lock = File::open(directory).map_err(access)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse { path: path.clone() },
        TryLockError::Error(source) => access(source),
    })?;
    if reset {
        set_aside(directory, &path)?;
    }
    match fs::metadata(&path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path)?,
        Err(error) => return Err(access(error)),
    }
    let (database, snapshot, is_new) = load(&path)?;
    let disk = Disk {
        path,
        database: Some(database),
        _lock: lock,
    };
    Ok(Loaded {
        disk,
        snapshot,
        is_new,
        is_restored: false,
    })
}

impl Loaded {
    /// Whether what an export beside it holds is of an earlier registry.
    const fn is_in_place_of_another(&self) -> bool {
        self.is_new || self.snapshot.revision == 0
    }
}

fn set_aside(directory: &Path, path: &Path) -> Result<(), OpenError> {
    match fs::rename(path, directory.join(SET_ASIDE_NAME)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            let path = path.to_owned();
            Err(OpenError::Access { path, source })
        }
        _ => Ok(()),
    }
}

/// Makes an empty registry under another name first, so that a crash leaves none rather than half of one.
fn make(path: &Path) -> Result<(), OpenError> {
    let draft_path = path.with_extension("new");
    let access = |source| OpenError::Access {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft_path)
        .map_err(access)?;
    let made = (|| {
        let database = builder().create_file(file)?;
        let transaction = database.begin_write()?;
        write_meta(&transaction, &Snapshot::default())?;
        transaction.open_table(META)?.insert(META_NEW, 1)?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(IDS)?;
        transaction.commit()?;
        Ok(())
    })();
    made.map_err(|error| damaged(path, error))?;
    fs::rename(&draft_path, path).map_err(access)?;
    let directory = path.parent().unwrap_or(path);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(access)
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Reads everything, after the checksums of all pages; and whether it is new.
fn load(path: &Path) -> Result<(Database, Snapshot, bool), OpenError> {
    // The database follows some pages before it has checked them, and a damaged one may break an assertion of its
    // own: that is a damaged file, not a reason to die.
    let read = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut database = builder().open(path).map_err(redb::Error::from)?;
        if !database.check_integrity().map_err(redb::Error::from)? {
            tracing::warn!(path = %path.display(), "registry was repaired: the last whole write is used");
        }
        let rows = rows::read(&database)?;
        Ok((database, rows))
    }));
    let (database, rows) = match read {
        Ok(read) => read.map_err(|error| damaged(path, error))?,
        Err(_panic) => {
            let source = redb::Error::Corrupted("its pages contradict each other".to_owned());
            return Err(damaged(path, source));
        }
    };
    let is_new = rows.is_new;
    Ok((database, rows::snapshot(path, rows)?, is_new))
}

fn damaged(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen => OpenError::InUse { path },
        redb::Error::Io(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            OpenError::Access { path, source }
        }
        other => OpenError::Damaged {
            path,
            source: Box::new(other),
        },
    }
}

impl Disk {
    /// Writes what a draft has changed, all or nothing.
    pub(super) fn commit(&mut self, draft: &Draft) -> Result<(), redb::Error> {
        let (database, is_whole) = match self.database.take() {
            Some(database) => (database, false),
            None => self.reopen(draft)?,
        };
        let written = write(&database, draft, is_whole);
        if written.is_ok() {
            self.database = Some(database);
        }
        written
    }

    /// Writes a whole registry in place of what is there.
    fn replace(&self, snapshot: &Snapshot) -> Result<(), redb::Error> {
        let Some(database) = &self.database else {
            return Err(redb::Error::DatabaseAlreadyOpen);
        };
        let transaction = database.begin_write()?;
        write_whole(&transaction, snapshot)?;
        write_meta(&transaction, snapshot)?;
        transaction.open_table(META)?.remove(META_NEW)?;
        transaction.commit()?;
        Ok(())
    }

    /// Remembers that nothing was lost when the registry was made.
    pub(super) fn settle(&self) -> Result<(), redb::Error> {
        let Some(database) = &self.database else {
            return Err(redb::Error::DatabaseAlreadyOpen);
        };
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.remove(META_NEW)?;
        transaction.commit()?;
        Ok(())
    }

    /// Opens the file again after a failed write. That write may have reached the disk all the same; then everything
    /// is written anew.
    fn reopen(&self, draft: &Draft) -> Result<(Database, bool), redb::Error> {
        let database = builder().open(&self.path).map_err(|error| match error {
            DatabaseError::Storage(StorageError::Io(source)) => redb::Error::Io(source),
            other => other.into(),
        })?;
        let stored = rows::read(&database)?;
        Ok((database, stored.revision != draft.base))
    }
}

fn write(database: &Database, draft: &Draft, is_whole: bool) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    if is_whole {
        write_whole(&transaction, &draft.next)?;
    } else {
        write_changes(&transaction, draft)?;
    }
    write_meta(&transaction, &draft.next)?;
    transaction.commit()?;
    Ok(())
}

fn write_changes(transaction: &WriteTransaction, draft: &Draft) -> Result<(), redb::Error> {
    let mut objects = transaction.open_table(OBJECTS)?;
    for notice in &draft.notices {
        let row = row(&notice.object);
        match notice.event {
            NoticeKind::Deleted => objects.remove(row.as_str())?,
            NoticeKind::Added | NoticeKind::Modified => {
                objects.insert(row.as_str(), json(&notice.object)?.as_slice())?
            }
        };
    }
    let mut ids = transaction.open_table(IDS)?;
    for (number, subject) in &draft.assigned {
        ids.insert(number, json(subject)?.as_slice())?;
    }
    for number in &draft.forgotten {
        ids.remove(number)?;
    }
    Ok(())
}

fn write_whole(transaction: &WriteTransaction, snapshot: &Snapshot) -> Result<(), redb::Error> {
    transaction.delete_table(OBJECTS)?;
    transaction.delete_table(IDS)?;
    let mut objects = transaction.open_table(OBJECTS)?;
    for manifest in snapshot.manifests() {
        objects.insert(row(&manifest).as_str(), json(&manifest)?.as_slice())?;
    }
    let mut ids = transaction.open_table(IDS)?;
    for (subject, number) in snapshot.ids.iter() {
        ids.insert(number, json(subject)?.as_slice())?;
    }
    Ok(())
}

fn write_meta(transaction: &WriteTransaction, snapshot: &Snapshot) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(META_SCHEMA, SCHEMA)?;
    meta.insert(META_REVISION, snapshot.revision)?;
    meta.insert(META_LAST_ID, u64::from(snapshot.ids.last()))?;
    Ok(())
}

/// Why a change was not stored: a full disk is told apart, because it has a cure.
pub(super) fn refusal(error: &redb::Error) -> Refusal {
    match error {
        redb::Error::Io(source)
            if matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            Refusal::DiskFull
        }
        other => Refusal::Storage(other.to_string()),
    }
}

fn row(object: &Manifest) -> String {
    format!("{}/{}", object.kind(), object.key())
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}

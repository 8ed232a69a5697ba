//! The export: the registry as a text file beside the database, whole objects with their status, so that a damaged database
//! can be made anew from it. A YAML stream of which each document is one line of JSON, because that is fast to write.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::{FILE_NAME, rows};
use crate::state::Snapshot;
use crate::state::id::{Ids, Subject};
use crate::state::object::Kind;
use crate::state::resource::with_kind;

/// Name of the file in the state directory.
pub const EXPORT_NAME: &str = "registry.export.yaml";
/// Name of the export that was there before a registry was new.
pub const OLD_EXPORT_NAME: &str = "registry.export.old.yaml";

/// Writes that may have been made after the export. A restored registry counts on behind them, so that no version and
/// no number is given twice: an export is at most a minute old, and no disk makes more than some thousand writes a second.
const LOST_WRITES: u32 = 1 << 20;

/// Why an export cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line of it is no object.
    #[error("{}:{line} is no object of the registry", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Writes the export: wholly, or not at all.
pub(in crate::state) fn write(directory: &Path, snapshot: &Snapshot) -> io::Result<()> {
    expect_room(directory)?;
    let path = directory.join(EXPORT_NAME);
    let draft_path = path.with_extension("yaml.new");
    let written = write_whole(&draft_path, snapshot).and_then(|()| {
        fs::rename(&draft_path, &path)?;
        File::open(directory)?.sync_all()
    });
    if written.is_err() {
        // Half of it is worth nothing, and the disk may be full because of it.
        drop(fs::remove_file(&draft_path));
    }
    written
}

/// Leaves the last room to the registry itself, which is never smaller than its export.
fn expect_room(directory: &Path) -> io::Result<()> {
    let needed = fs::metadata(directory.join(FILE_NAME)).map_or(0, |it| it.len());
    let disk = statvfs(directory)?;
    let room = disk.blocks_available().saturating_mul(disk.fragment_size());
    if room < needed {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

fn write_whole(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut out = BufWriter::new(file);
    let revision = snapshot.revision;
    writeln!(
        out,
        "# The registry at revision {revision}, for `mesh-agent run --restore`."
    )?;
    let numbers = Numbers {
        kind: NumbersKind::Numbers,
        last: snapshot.ids.last(),
        given: snapshot.ids.iter().collect(),
    };
    out.write_all(b"---\n")?;
    serde_json::to_writer(&mut out, &numbers)?;
    out.write_all(b"\n")?;
    for object in snapshot.manifests() {
        out.write_all(b"---\n")?;
        serde_json::to_writer(&mut out, &object)?;
        out.write_all(b"\n")?;
    }
    out.into_inner()?.sync_all()
}

/// Puts an export aside that a new registry would write over.
pub(in crate::state) fn set_aside(directory: &Path) -> io::Result<()> {
    match fs::rename(directory.join(EXPORT_NAME), directory.join(OLD_EXPORT_NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether there is one.
pub(in crate::state) fn is_there(directory: &Path) -> bool {
    directory.join(EXPORT_NAME).exists()
}

/// Reads the export.
pub(in crate::state) fn read(directory: &Path) -> Result<Snapshot, ExportError> {
    let path = directory.join(EXPORT_NAME);
    let failed = |source| ExportError::Read {
        path: path.clone(),
        source,
    };
    let mut snapshot = Snapshot::default();
    let file = File::open(&path).map_err(failed)?;
    for (index, text) in BufReader::new(file).lines().enumerate() {
        let text = text.map_err(failed)?;
        if text.is_empty() || text == "---" || text.starts_with('#') {
            continue;
        }
        take(&mut snapshot, &text).map_err(|source| ExportError::Line {
            path: path.clone(),
            line: index + 1,
            source,
        })?;
    }
    snapshot.revision += u64::from(LOST_WRITES);
    Ok(snapshot)
}

/// The numbers by which the kernel knows the objects, as a document.
#[derive(Deserialize, Serialize)]
struct Numbers<S> {
    kind: NumbersKind,
    last: u32,
    given: Vec<(S, u32)>,
}

#[derive(Deserialize, Serialize)]
enum NumbersKind {
    Numbers,
}

/// What an object says of its kind.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Numbers(Numbers<Subject>),
    Object { kind: Kind },
}

fn take(snapshot: &mut Snapshot, text: &str) -> Result<(), serde_json::Error> {
    match serde_json::from_str(text)? {
        Document::Numbers(it) => {
            // More were given after the export, and the kernel may know them.
            let last = it.last.saturating_add(LOST_WRITES);
            let numbers = it.given.into_iter().collect();
            snapshot.ids = Ids::restore(last, numbers);
        }
        Document::Object { kind } => {
            let version = with_kind!(kind, R => rows::insert::<R>(snapshot, text.as_bytes())?);
            // One that is no number was not written by an agent, and says nothing.
            snapshot.revision = snapshot.revision.max(version.parse().unwrap_or_default());
        }
    }
    Ok(())
}

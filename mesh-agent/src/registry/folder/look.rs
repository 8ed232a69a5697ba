//! What is in a folder: names and stamps first, contents of what is new.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::state::document;

/// How the names of files end that are meant, in small letters or capitals.
const MEANT: [&str; 3] = ["yaml", "yml", "json"];
/// Most files of a folder.
const MAX_FILES: usize = 10_000;

/// What tells two versions of a file apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// A file: where it is on the disk, how long, and when it was written or replaced.
    File {
        device: u64,
        inode: u64,
        size: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
    /// Something that cannot be read, and why.
    Unreadable(String),
}

/// The files of a folder that are meant, by name.
pub(super) type Listing = BTreeMap<String, Stamp>;

/// What is in a file.
#[derive(Clone, Debug)]
pub(super) enum Contents {
    /// The text.
    Text(String),
    /// Why it cannot be read.
    Unreadable(String),
    /// It is being written.
    Unread,
}

/// Why a folder cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot read the folder: {0}")]
    Read(#[from] io::Error),
    #[error("the folder has more than {MAX_FILES} files")]
    TooMany,
}

/// Looks at the files of a folder, not at those of folders in it. Names that begin with a dot are not meant: so editors and
/// Kubernetes call what is not finished. Symbolic links are followed.
pub(super) fn list(directory: &Path) -> Result<Listing, Error> {
    let mut listing = Listing::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        // A name that is no UTF-8 has no ending that is meant either, as far as anybody can tell.
        let Some(name) = name.to_str().filter(|name| is_meant(name)) else {
            continue;
        };
        if listing.len() == MAX_FILES {
            return Err(Error::TooMany);
        }
        if let Some(stamp) = stamp(&directory.join(name)) {
            listing.insert(name.to_owned(), stamp);
        }
    }
    Ok(listing)
}

fn is_meant(name: &str) -> bool {
    let ending = Path::new(name).extension().and_then(|it| it.to_str());
    let is_meant = |ending: &str| MEANT.iter().any(|it| it.eq_ignore_ascii_case(ending));
    !name.starts_with('.') && ending.is_some_and(is_meant)
}

/// `None` where the file is gone meanwhile.
fn stamp(path: &Path) -> Option<Stamp> {
    match fs::metadata(path) {
        Ok(metadata) => Some(stamp_of(&metadata)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() =>
        {
            None
        }
        Err(error) => Some(Stamp::Unreadable(error.to_string())),
    }
}

fn stamp_of(metadata: &Metadata) -> Stamp {
    // A pipe would be waited for, and a device read for ever.
    if !metadata.is_file() {
        return Stamp::Unreadable("it is no file".to_owned());
    }
    if metadata.len() > document::MAX_BYTES {
        let limit = document::MAX_BYTES;
        return Stamp::Unreadable(format!("it has more than {limit} bytes"));
    }
    Stamp::File {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Reads a file that had the stamp `seen`. `None` where it has changed meanwhile: the next look finds it.
pub(super) fn read(directory: &Path, name: &str, seen: &Stamp) -> Option<Contents> {
    if let Stamp::Unreadable(reason) = seen {
        return Some(Contents::Unreadable(reason.clone()));
    }
    let text = match read_text(&directory.join(name), seen) {
        Ok(text) => text?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Contents::Unreadable(error.to_string())),
    };
    Some(match String::from_utf8(text) {
        Ok(text) => Contents::Text(text),
        Err(_not_text) => Contents::Unreadable("it is no UTF-8 text".to_owned()),
    })
}

fn read_text(path: &Path, seen: &Stamp) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut text = Vec::new();
    (&mut file)
        .take(document::MAX_BYTES)
        .read_to_end(&mut text)?;
    let is_same = stamp_of(&file.metadata()?) == *seen;
    Ok(is_same.then_some(text))
}

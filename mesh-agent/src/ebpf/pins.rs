//! The directory of pinned maps and links: `<pin_dir>/v<schema>/{maps,links}`.

use std::fs;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use mesh_common::SCHEMA;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Error;

/// Where the BPF file system is mounted on most machines.
const BPFFS: &str = "/sys/fs/bpf";

/// The directories of one schema.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    /// `<pin_dir>/v<schema>`.
    pub(super) root: PathBuf,
    /// The maps, by name.
    pub(super) maps: PathBuf,
    /// The links: `mesh_connect4`, or `mesh_sk_lookup-<netns cookie>`.
    pub(super) links: PathBuf,
}

impl Pins {
    /// The directories below `pin_dir`, whether they are there or not.
    pub(super) fn below(pin_dir: &Path) -> Self {
        Self::at(pin_dir.join(format!("v{SCHEMA}")))
    }

    /// The directories of the schema at `root`.
    pub(super) fn at(root: PathBuf) -> Self {
        Self {
            maps: root.join("maps"),
            links: root.join("links"),
            root,
        }
    }

    /// Makes the directories; mounts the BPF file system where it belongs and is not.
    pub(super) fn create(pin_dir: &Path) -> Result<Self, Error> {
        let failed = |path: &Path, source: io::Error| Error::Pin {
            path: path.to_owned(),
            source,
        };
        ensure_bpffs(pin_dir).map_err(|source| failed(pin_dir, source))?;
        check_schema(pin_dir)?;
        let pins = Self::below(pin_dir);
        for directory in [&pins.maps, &pins.links] {
            fs::create_dir_all(directory).map_err(|source| failed(directory, source))?;
        }
        if !is_bpffs(&pins.maps) {
            return Err(Error::NoBpffs {
                path: pin_dir.to_owned(),
            });
        }
        Ok(pins)
    }

    /// Keeps other agents out of `pin_dir` until the file is closed; `None` where the directory is not there.
    pub(super) fn lock(pin_dir: &Path) -> Result<Option<File>, Error> {
        let path = pin_dir.to_owned();
        let directory = match File::open(pin_dir) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Pin { path, source }),
        };
        match directory.try_lock() {
            Ok(()) => Ok(Some(directory)),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { path }),
            Err(TryLockError::Error(source)) => Err(Error::Pin { path, source }),
        }
    }

    /// Names of what is in one of the directories; none where it is not there.
    pub(super) fn names(directory: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }
}

/// Whether `path`, or the nearest directory above it that exists, lies in a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|path| path.exists())
        .and_then(|path| statfs(path).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn ensure_bpffs(pin_dir: &Path) -> io::Result<()> {
    if is_bpffs(pin_dir) || !pin_dir.starts_with(BPFFS) {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(io::Error::from)
}

/// Another schema's links would run beside ours and see every connection twice.
fn check_schema(pin_dir: &Path) -> Result<(), Error> {
    let names = Pins::names(pin_dir).map_err(|source| Error::Pin {
        path: pin_dir.to_owned(),
        source,
    })?;
    let ours = format!("v{SCHEMA}");
    match names.into_iter().find(|name| *name != ours) {
        Some(name) => Err(Error::ForeignPin {
            path: pin_dir.join(name),
        }),
        None => Ok(()),
    }
}

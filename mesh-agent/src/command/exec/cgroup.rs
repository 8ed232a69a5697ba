//! A cgroup that exists as long as the command: made before it, emptied and removed after it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{self, Instant};

use super::Error;

/// A directory in the cgroup2 hierarchy.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub(super) fn make(path: &Path) -> Result<Self, Error> {
        fs::create_dir(path).map_err(failed("make", path))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The file through which a process moves itself in.
    pub(super) fn entry(&self) -> Result<File, Error> {
        let file = OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.procs"));
        file.map_err(failed("enter", &self.path))
    }

    /// Waits a moment for what the command has left behind, and kills what stays.
    pub(super) async fn empty(&self) -> Result<(), Error> {
        let path = self.path.as_path();
        self.wait_until_empty(GRACE).await;
        if self.is_populated() {
            fs::write(path.join("cgroup.kill"), "1").map_err(failed("empty", path))?;
            self.wait_until_empty(KILL_DEADLINE).await;
        }
        Ok(())
    }

    /// Removes the cgroup, once it is empty.
    pub(super) fn remove(self) -> Result<(), Error> {
        remove_tree(&self.path).map_err(failed("remove", &self.path))
    }

    async fn wait_until_empty(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.is_populated() && Instant::now() < deadline {
            time::sleep(POLL).await;
        }
    }

    fn is_populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }
}

/// Removes a cgroup with those that the command has made below it. Only directories can be, and need be, removed.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Cgroup { what, path, source }
}

/// For children of the command that end by themselves.
const GRACE: Duration = Duration::from_secs(1);
/// A killed process may still be busy in the kernel.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

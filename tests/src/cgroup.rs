//! Cgroups of a test: made below the cgroup2 mount, emptied and removed when dropped.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::eventually::becomes;

/// A cgroup, and all below it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup right below the mount.
    #[must_use]
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let mount = mount().expect("a cgroup2 mount");
        Self::at(mount.join(name))
    }

    /// Makes a cgroup below this one.
    #[must_use]
    #[track_caller]
    pub fn child(&self, name: &str) -> Self {
        Self::at(self.path.join(name))
    }

    #[track_caller]
    fn at(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file into which a process writes `0` to move itself here.
    #[must_use]
    #[track_caller]
    pub fn entrance(&self) -> OwnedFd {
        let path = self.path.join("cgroup.procs");
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .into()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Where cgroup2 is mounted.
#[must_use]
pub fn mount() -> Option<PathBuf> {
    mount_in(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        source
            .starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// Kills what runs in a cgroup and below it, and removes it.
pub(crate) fn remove(path: &Path) {
    drop(fs::write(path.join("cgroup.kill"), "1"));
    let is_gone = becomes(Duration::from_secs(5), || {
        remove_folders(path);
        !path.exists()
    });
    if !is_gone {
        eprintln!("cannot remove the cgroup {}", path.display());
    }
}

fn remove_folders(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            remove_folders(&entry.path());
        }
    }
    drop(fs::remove_dir(path));
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::mount_in;

    #[test]
    fn the_mount_is_found_by_its_type() {
        let mountinfo = "30 24 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs rw\n\
             31 30 0:27 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            mount_in(mountinfo),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(mount_in("1 2 0:1 / / rw - ext4 /dev/x rw\n"), None);
    }
}

//! `mesh-agent cleanup`: takes everything out of the kernel, with or without a running agent. One that runs notices it with
//! its next heartbeat ([`Datapath::heartbeat`](super::Datapath::heartbeat)), and steers nothing from then on.

use std::fs;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_common::SCHEMA;
use mesh_common::conn::Tuple;
use mesh_common::names::{map, program};
use mesh_common::settings::Settings;

use super::pins::Pins;
use super::table::Table;
use super::{Error, link};

/// How long accelerated connections may take to leave the map of sockets.
const PATIENCE: Duration = Duration::from_secs(1);

/// The order in which hooks are taken out: first what sends connections elsewhere, last what counts them.
const ORDER: [&str; 11] = [
    program::CONNECT4,
    program::CONNECT6,
    program::SENDMSG4,
    program::SENDMSG6,
    program::SK_LOOKUP,
    program::EGRESS,
    program::RECVMSG4,
    program::RECVMSG6,
    program::GETPEERNAME4,
    program::GETPEERNAME6,
    program::SOCK_OPS,
];

/// Keeps agents out of `pin_dir` until the file is closed, where there is such a directory. Fails with
/// [`Error::InUse`] while one runs.
pub fn claim(pin_dir: &Path) -> Result<Option<File>, Error> {
    Pins::lock(pin_dir)
}

/// Removes links, maps and directories below `pin_dir`, and says what it removed. What is not ours stays.
pub fn run(pin_dir: &Path) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    let schemas = Pins::names(pin_dir).map_err(|source| failed(pin_dir, source))?;
    for schema in schemas {
        let is_schema = schema
            .strip_prefix('v')
            .is_some_and(|number| number.parse::<u32>().is_ok());
        if is_schema {
            clear(&Pins::at(pin_dir.join(&schema)), &mut removed)?;
        }
    }
    remove_directory(pin_dir, &mut removed)?;
    Ok(removed)
}

fn clear(pins: &Pins, removed: &mut Vec<String>) -> Result<(), Error> {
    if pins.root.ends_with(format!("v{SCHEMA}")) {
        switch_off(pins)?;
    }
    let links = Pins::names(&pins.links).map_err(|source| failed(&pins.links, source))?;
    for hook in ORDER {
        for name in links.iter().filter(|name| is_link_of(name, hook)) {
            link::detach(&pins.links.join(name))?;
            removed.push(format!("link {name}"));
        }
    }
    await_sockets(pins, removed);
    for name in map::ALL {
        let path = pins.maps.join(name);
        if path.exists() {
            fs::remove_file(&path).map_err(|source| failed(&path, source))?;
            removed.push(format!("map {name}"));
        }
    }
    for directory in [&pins.links, &pins.maps, &pins.root] {
        remove_directory(directory, removed)?;
    }
    Ok(())
}

/// `mesh_connect4`, or `mesh_sk_lookup-<netns cookie>`.
fn is_link_of(name: &str, hook: &str) -> bool {
    name.strip_prefix(hook)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// From here on every connection passes, and paired sockets fall back to TCP with their next message.
fn switch_off(pins: &Pins) -> Result<(), Error> {
    if !pins.maps.join(map::SETTINGS).exists() {
        return Ok(());
    }
    let table = Table::<u32, Settings>::open(&pins.maps, map::SETTINGS)?;
    let mut settings = table.get(&0)?.unwrap_or_default();
    settings.flags |= Settings::PASS_ALL | Settings::ACCELERATION_OFF;
    Ok(table.insert(&0, &settings)?)
}

/// Paired sockets keep the map and the program alive until they close, so that none of their bytes is lost.
fn await_sockets(pins: &Pins, removed: &mut Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    let Ok(table) = Table::<Tuple, u32>::open(&pins.maps, map::SOCKETS) else {
        return;
    };
    loop {
        let left = table.keys().map_or(0, |keys| keys.len());
        if left == 0 {
            return;
        }
        if Instant::now() > deadline {
            removed.push(format!(
                "{left} paired sockets stay with TCP from now on, until they close"
            ));
            return;
        }
        std::thread::yield_now();
    }
}

/// Removes a directory if nothing is left in it.
fn remove_directory(directory: &Path, removed: &mut Vec<String>) -> Result<(), Error> {
    match fs::remove_dir(directory) {
        Ok(()) => removed.push(format!("directory {}", directory.display())),
        Err(error) if is_kept(&error) => {}
        Err(source) => return Err(failed(directory, source)),
    }
    Ok(())
}

/// Nothing there, something else in it, or the mount point itself.
fn is_kept(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
    )
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Pin {
        path: PathBuf::from(path),
        source,
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::names::program;

    use super::{Error, ORDER, claim, is_link_of, run};

    #[test]
    fn every_hook_is_taken_out() {
        // What sees messages hangs on a map, and goes with it.
        let hooks = program::ALL.iter().filter(|it| **it != program::SK_MSG);
        for hook in hooks {
            assert!(ORDER.contains(hook), "{hook}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_nothing_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let removed = run(&directory.path().join("absent")).unwrap();
        assert_eq!(removed, Vec::<String>::new());
    }

    #[test]
    fn a_directory_is_claimed_by_one_only() {
        let directory = tempfile::tempdir().unwrap();
        let claimed = claim(directory.path()).unwrap();
        assert!(claimed.is_some());
        let refused = claim(directory.path());
        assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
        drop(claimed);
        assert!(claim(directory.path()).unwrap().is_some());
        assert!(claim(&directory.path().join("absent")).unwrap().is_none());
    }

    #[test]
    fn foreign_files_stay() {
        let directory = tempfile::tempdir().unwrap();
        let foreign = directory.path().join("v1/maps/OTHER");
        std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        std::fs::write(&foreign, "").unwrap();
        run(directory.path()).unwrap();
        assert!(foreign.exists());
    }

    #[test]
    fn links_of_namespaces_belong_to_their_hook() {
        assert!(is_link_of("mesh_sk_lookup-4711", "mesh_sk_lookup"));
        assert!(is_link_of("mesh_connect4", "mesh_connect4"));
        assert!(!is_link_of("mesh_connect46", "mesh_connect4"));
    }
}

//! Which registry it is: one that was lost and begun anew is not the one that this node has followed.
//!
//! The first node of a fleet writes a random name under the prefix, and each node remembers the one that it has followed.
//! An etcd that has come back empty would take every service away from every node; here it does not, until somebody
//! says that it is right.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::error::Error;
use super::link::Link;
use super::wire::{Compare, Number, Operation, Transaction};
use crate::state::Refusal;

/// Name of the file in the state directory: the address, and the name of the registry there.
const FILE_NAME: &str = "registry-fleet";

/// The registry that this node follows.
#[derive(Debug)]
pub(super) struct Identity {
    path: PathBuf,
    address: String,
    name: Mutex<Option<String>>,
}

impl Identity {
    /// What an agent before this one has followed at the same address.
    pub(super) fn load(directory: &Path, address: &str) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            path,
            address: address.to_owned(),
            name: Mutex::new(name_in(&text, address)),
        })
    }

    fn name(&self) -> Option<String> {
        let name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        name.clone()
    }

    fn keep(&self, name: &str) -> io::Result<()> {
        let draft = self.path.with_extension("new");
        fs::write(&draft, format!("{}\n{name}\n", self.address))?;
        fs::File::open(&draft)?.sync_all()?;
        fs::rename(&draft, &self.path)?;
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
        Ok(())
    }
}

fn name_in(text: &str, address: &str) -> Option<String> {
    let mut lines = text.lines();
    lines.next().filter(|line| *line == address)?;
    let name = lines.next().filter(|name| !name.is_empty())?;
    Some(name.to_owned())
}

/// Fails where the registry is not the one that this node has followed. The first time it is whichever it is.
pub(super) async fn expect_same(link: &Arc<Link>) -> Result<(), Error> {
    let key = link.layout.fleet();
    let get = || {
        vec![Operation::Get {
            key: key.as_str().into(),
        }]
    };
    if let Some(name) = link.identity.name() {
        let transaction = Transaction {
            compare: vec![Compare::holds(&key, &name)],
            success: Vec::new(),
            failure: get(),
        };
        let answer = link.client.transact(&transaction).await?;
        return if answer.succeeded {
            Ok(())
        } else {
            Err(Error::Replaced { key, name })
        };
    }
    let mut name = Uuid::new_v4().to_string();
    let transaction = Transaction {
        compare: vec![Compare::is_at(&key, 0)],
        success: vec![Operation::Put {
            key: key.as_str().into(),
            value: name.as_str().into(),
            lease: Number(0),
        }],
        failure: get(),
    };
    let answer = link.client.transact(&transaction).await?;
    if let Some(kv) = answer.found().next() {
        name = String::from_utf8_lossy(&kv.value.0).into_owned();
    }
    let link = Arc::clone(link);
    let kept = spawn_blocking(move || link.identity.keep(&name)).await;
    let kept = kept.map_err(io::Error::other).and_then(|kept| kept);
    kept.map_err(|error| Error::Store(Refusal::Storage(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_remembered_for_its_address() {
        let directory = tempfile::tempdir().unwrap();
        let load = |address| Identity::load(directory.path(), address).unwrap();
        assert_eq!(load("etcd://a/mesh").name(), None);
        load("etcd://a/mesh").keep("one").unwrap();
        assert_eq!(load("etcd://a/mesh").name().as_deref(), Some("one"));
        assert_eq!(load("etcd://b/mesh").name(), None);
    }
}

//! The lease of this node: its endpoints go with it.
//!
//! Its number is kept in the state directory, so that an agent that comes back in time finds its endpoints where they were.
//! The name of the node is held with the same lease: two nodes of one name would take each other's endpoints for their own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::spawn_blocking;

use super::error::Error;
use super::link::{Link, origin, share};
use super::wire::{Compare, Number, Operation, Transaction};
use crate::state::Refusal;

/// Name of the file in the state directory.
const FILE_NAME: &str = "registry-lease";

/// Reads the number of the lease, or picks one from `random`.
pub(super) fn number(directory: &Path, random: i64) -> io::Result<i64> {
    let path = directory.join(FILE_NAME);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let number = text.trim().parse().ok().filter(|number| *number > 0);
            number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it holds no number"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let number = random.unsigned_abs().cast_signed() & i64::MAX;
            let number = number.max(1);
            let draft = path.with_extension("new");
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(number.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            Ok(number)
        }
        Err(error) => Err(error),
    }
}

/// Renews the lease or makes it, and takes the name of the node. Returns the last write of etcd.
pub(super) async fn hold(link: &Arc<Link>) -> Result<i64, Error> {
    if !renew(link).await? {
        // Before a lease is asked for: its answer may be lost, and this agent may end before it has told them.
        queue_own(link).await?;
        let granted = link.client.grant(link.lease, link.ttl).await;
        // Taken: an earlier question has made it whose answer was lost.
        if let Err(error) = granted
            && !error.is_lease_taken()
        {
            return Err(error);
        }
    }
    take_name(link).await
}

/// Renews the lease. False: it is gone, which is remembered until what went with it is told again.
pub(super) async fn renew(link: &Link) -> Result<bool, Error> {
    let lease = link.client.keep_alive(link.lease).await?;
    let is_there = lease.ttl.0 > 0;
    if !is_there {
        link.was_lease_lost.store(true, Ordering::Relaxed);
    }
    Ok(is_there)
}

/// Whether the lease was gone since everything was read last.
pub(super) fn was_lost(link: &Link) -> bool {
    link.was_lease_lost.load(Ordering::Relaxed)
}

/// Says that all that went with the lease is to be told again.
pub(super) fn recovered(link: &Link) {
    if link.was_lease_lost.swap(false, Ordering::Relaxed) {
        link.leases.send_modify(|count| *count += 1);
        tracing::info!(
            node = link.node,
            "the shared registry has a new lease for this node"
        );
    }
}

/// Says on the endpoints of this node that etcd has yet to hear of them: the next agent finds them so.
async fn queue_own(link: &Arc<Link>) -> Result<(), Error> {
    let link = Arc::clone(link);
    let queued = spawn_blocking(move || {
        let own = link.own();
        let notes = own
            .iter()
            .map(|key| (origin(&link.node), share(key, false)));
        let results = link.store.apply_all(notes);
        results.into_iter().find_map(|result| match result {
            Err(refusal @ (Refusal::Storage(_) | Refusal::DiskFull)) => Some(refusal),
            // One that has gone meanwhile has nothing to say.
            _ => None,
        })
    });
    let refused = queued
        .await
        .unwrap_or_else(|error| Some(Refusal::Storage(error.to_string())));
    refused.map_or(Ok(()), |refusal| Err(Error::Store(refusal)))
}

async fn take_name(link: &Link) -> Result<i64, Error> {
    let key = link.layout.node(&link.node);
    let value = link.lease.to_string();
    let put = || Operation::Put {
        key: key.as_str().into(),
        value: value.as_str().into(),
        lease: Number(link.lease),
    };
    for compare in [Compare::is_at(&key, 0), Compare::holds(&key, &value)] {
        let transaction = Transaction {
            compare: vec![compare],
            success: vec![put()],
            failure: Vec::new(),
        };
        let answer = link.client.transact(&transaction).await?;
        if answer.succeeded {
            return Ok(answer.header.revision.0);
        }
    }
    Err(Error::NameTaken(link.node.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_picked_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(number(directory.path(), -7).unwrap(), 7);
        assert_eq!(number(directory.path(), 9).unwrap(), 7);
        fs::write(directory.path().join(FILE_NAME), "x").unwrap();
        assert!(number(directory.path(), 9).is_err());
        for random in [0, i64::MIN, i64::MAX] {
            let directory = tempfile::tempdir().unwrap();
            assert!(number(directory.path(), random).unwrap() > 0, "{random}");
        }
    }
}

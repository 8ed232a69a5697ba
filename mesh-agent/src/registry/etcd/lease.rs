//! The lease of this node: its endpoints go with it.
//!
//! Its number is kept in the state directory, so that an agent that comes back in time finds its endpoints where they were.
//! The name of the node is held with the same lease: two nodes of one name would take each other's endpoints for their own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::error::Error;
use super::link::Link;
use super::wire::{Compare, Number, Operation, Transaction};

/// Name of the file in the state directory.
const FILE_NAME: &str = "registry-lease";

/// The lease is there, and this node has its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Whether the lease was made now: what went with an earlier one is gone.
    pub(super) is_new: bool,
    /// The last write of etcd.
    pub(super) revision: i64,
}

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

/// Makes or renews the lease and takes the name of the node.
pub(super) async fn hold(link: &Link) -> Result<Held, Error> {
    let is_new = match link.client.grant(link.lease, link.ttl).await {
        Ok(_) => true,
        Err(error) if error.is_lease_taken() => {
            // It may run out between the two.
            if renew(link).await? {
                false
            } else {
                link.client.grant(link.lease, link.ttl).await?;
                true
            }
        }
        Err(error) => return Err(error),
    };
    if is_new {
        link.leases.send_modify(|count| *count += 1);
        tracing::info!(
            node = link.node,
            "the shared registry has a new lease for this node"
        );
    }
    let revision = take_name(link).await?;
    Ok(Held { is_new, revision })
}

/// Renews the lease. False: it is gone.
pub(super) async fn renew(link: &Link) -> Result<bool, Error> {
    let lease = link.client.keep_alive(link.lease).await?;
    Ok(lease.ttl.0 > 0)
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

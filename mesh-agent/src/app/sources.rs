//! Where objects come from beside the API: opened with the registry, followed while the agent runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::config::Settings;
use crate::metrics::Registry;
use crate::net::tls::TlsFiles;
use crate::registry::etcd::{self, Etcd};
use crate::registry::folder::Folder;
use crate::registry::{Board, export, metrics};
use crate::state::{Source, Store, Writer};

/// The sources that are configured.
pub(super) struct Sources {
    /// How they are.
    pub(super) board: Board,
    /// The registry that several nodes share.
    pub(super) etcd: Option<Arc<Etcd>>,
    /// The way of what the API is asked to change.
    pub(super) writer: Writer,
    /// The folder of files, until it is followed.
    folder: Mutex<Option<Folder>>,
    store: Arc<Store>,
    state_dir: PathBuf,
}

impl Sources {
    /// Reads what is there. What came from a source that is not configured any more is the API's.
    pub(super) fn open(
        settings: &Settings,
        store: &Arc<Store>,
        registry: &mut Registry,
    ) -> Result<Self> {
        let board = Board::default();
        metrics::register(registry, board.clone());
        let folder = match &settings.sources.files {
            None => {
                release(store, Source::Files)?;
                None
            }
            Some(directory) => {
                let store = Arc::clone(store);
                let mut folder = Folder::new(directory.clone(), store, board.clone());
                folder.first_look();
                Some(folder)
            }
        };
        let (etcd, writer) = shared(settings, store, &board, registry)?;
        Ok(Self {
            board,
            etcd,
            writer,
            folder: Mutex::new(folder),
            store: Arc::clone(store),
            state_dir: settings.state_dir.clone(),
        })
    }

    /// Follows them, and exports what comes of it.
    pub(super) fn spawn(&self, tasks: &mut JoinSet<Result<()>>) {
        let export = export::run(Arc::clone(&self.store), self.state_dir.clone());
        tasks.spawn(async move { export.await.context("the export has stopped") });
        if let Some(etcd) = self.etcd.clone() {
            tasks.spawn(async move {
                let run = etcd.run().await;
                run.context("the link to the shared registry has stopped")
            });
        }
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folder.take() {
            tasks.spawn(async move {
                let run = folder.run().await;
                run.context("the look at the folder of files has stopped")
            });
        }
    }
}

/// The registry that several nodes share, and the way of changes to it.
fn shared(
    settings: &Settings,
    store: &Arc<Store>,
    board: &Board,
    registry: &mut Registry,
) -> Result<(Option<Arc<Etcd>>, Writer)> {
    let Some(address) = &settings.registry else {
        release(store, Source::Etcd)?;
        return Ok((None, Writer::local(Arc::clone(store))));
    };
    let certificate = settings.registry_cert.clone();
    let own = certificate.zip(settings.registry_key.clone());
    let authorities = settings.registry_ca.clone();
    let config = etcd::Config {
        address: address.clone(),
        tls: address.is_tls.then_some(TlsFiles { authorities, own }),
        ttl: settings.registry_ttl,
        node: node_name(settings)?,
        state_dir: settings.state_dir.clone(),
    };
    let (etcd, writer) = Etcd::open(config, Arc::clone(store), board.clone(), registry)?;
    Ok((Some(Arc::new(etcd)), writer))
}

/// The configured name of this node, or that of the machine.
fn node_name(settings: &Settings) -> Result<String> {
    if let Some(node) = &settings.locality.node {
        return Ok(node.clone());
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.context("cannot read the name of this machine; give --node")?;
    Ok(name.trim().to_owned())
}

fn release(store: &Store, source: Source) -> Result<()> {
    let count = store
        .release(source)
        .context("cannot give the objects of a source to the API")?;
    if count > 0 {
        tracing::warn!(count, %source, "source is not configured any more: its objects are the API's now");
    }
    Ok(())
}

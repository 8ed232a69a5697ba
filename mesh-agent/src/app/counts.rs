//! What the kernel counts, and room for it.

use std::sync::Arc;

use mesh_common::stats::StatKey;
use tracing::{info, warn};

use crate::ebpf;
use crate::ebpf::{Datapath, stats};
use crate::state::report::MapReport;
use crate::state::{Snapshot, Store};

/// Where a scrape reads what the kernel counts.
pub(super) struct Counts {
    pub(super) store: Arc<Store>,
    pub(super) datapath: Arc<Datapath>,
}

impl ebpf::metrics::Source for Counts {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.store.snapshot()
    }

    fn stats(&self) -> Vec<(StatKey, u64)> {
        self.datapath.tables().stats.entries().unwrap_or_default()
    }

    fn open_connections(&self) -> Vec<(u32, u64)> {
        self.datapath.tables().open.entries().unwrap_or_default()
    }

    fn maps(&self) -> Vec<MapReport> {
        self.datapath.tables().reports().unwrap_or_default()
    }
}

/// Forgets the counters of objects that are gone, where room may be short.
pub(super) fn prune(store: &Store, datapath: &Datapath) {
    match stats::prune(datapath.tables(), &store.snapshot()) {
        Ok(0) => {}
        Ok(count) => info!(count, "counters of objects that are gone were forgotten"),
        Err(error) => warn!(
            error = super::describe(&error),
            "cannot make room for counters"
        ),
    }
}

//! What the API asks of the agent beside the registry.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use mesh_common::verdict::Verdict;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::api;
use crate::api::NodeError;
use crate::config::Settings;
use crate::ebpf::coverage;
use crate::ebpf::coverage::Unseen;
use crate::ebpf::events::ClosedConnections;
use crate::ebpf::explain;
use crate::ebpf::inet_diag::Storages;
use crate::ebpf::numbers::Numbers;
use crate::ebpf::{Datapath, connections};
use crate::metrics::Registry;
use crate::net::clock;
use crate::net::netns::Netns;
use crate::proxy::Proxy;
use crate::registry::Board;
use crate::registry::checks::heartbeat::Heartbeats;
use crate::registry::edges::Edges;
use crate::registry::etcd::Etcd;
use crate::state::endpoint::HealthStatus;
use crate::state::graph::{self, Graph};
use crate::state::object::{Kind, ObjectKey};
use crate::state::report::{
    BpfReport, BreakerList, ConnectionList, CoverageList, Explanation, FaultReport,
    RequestQuestion, Status, Transport,
};
use crate::state::{Refusal, Store};
use crate::telemetry::Telemetry;

use super::enrolment::Standing;
use super::observed;

/// The agent, as the API sees it.
pub(super) struct Node {
    pub(super) store: Arc<Store>,
    pub(super) datapath: Arc<Datapath>,
    pub(super) proxy: Arc<Proxy>,
    /// Where endpoints say how they are.
    pub(super) heartbeats: Arc<Heartbeats>,
    pub(super) telemetry: Telemetry,
    pub(super) registry: Registry,
    pub(super) standing: Arc<ArcSwap<Standing>>,
    pub(super) closed: Arc<ClosedConnections>,
    pub(super) host: Arc<Netns>,
    pub(super) settings: Settings,
    /// The hooked cgroup as `/proc/PID/cgroup` names it.
    pub(super) hooked: PathBuf,
    pub(super) progress: Progress,
    /// Who was seen to connect to whom.
    pub(super) edges: Edges,
    /// The registry that several nodes share.
    pub(super) etcd: Option<Arc<Etcd>>,
    /// How the sources of objects are.
    pub(super) board: Board,
    /// Stale connections that were reset.
    pub(super) resets: Arc<AtomicU64>,
}

/// What changes while the agent runs.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    /// The last revision that is wholly in the kernel, plus one; zero: none yet.
    programmed: AtomicU64,
    /// Why nothing is mirrored.
    blocked: Mutex<Option<String>>,
    is_draining: AtomicBool,
    drain: Notify,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            programmed: AtomicU64::new(0),
            blocked: Mutex::default(),
            is_draining: AtomicBool::new(false),
            drain: Notify::new(),
        }
    }

    /// Says that `revision` is wholly in the kernel.
    pub(super) fn programmed(&self, revision: u64) {
        self.programmed.store(revision + 1, Ordering::Relaxed);
    }

    /// Says that nothing is mirrored, and why.
    pub(super) fn block(&self, why: String) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Says that the agent takes no new connections.
    pub(super) fn draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether it takes no new connections.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Returns when somebody asks for a drain.
    pub(super) async fn drain_asked(&self) {
        self.drain.notified().await;
    }

    /// Whether nothing is mirrored.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    fn pending(&self) -> Vec<String> {
        let mut pending = Vec::new();
        pending.extend(
            self.blocked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        );
        if pending.is_empty() && self.programmed.load(Ordering::Relaxed) == 0 {
            pending.push("the registry is not in the kernel yet".to_owned());
        }
        if self.is_draining() {
            pending.push("the agent is draining".to_owned());
        }
        pending
    }
}

impl Node {
    /// The network namespaces of workloads, and the agent's own.
    pub(super) fn namespaces(&self) -> Vec<Arc<Netns>> {
        let standing = self.standing.load();
        let mut namespaces = BTreeMap::from([(self.host.cookie(), Arc::clone(&self.host))]);
        for netns in standing.netns.values() {
            namespaces.insert(netns.cookie(), Arc::clone(netns));
        }
        namespaces.into_values().collect()
    }

    /// What readiness waits for.
    fn pending_parts(&self) -> Vec<String> {
        let mut pending = self.progress.pending();
        pending.extend(self.etcd.as_ref().and_then(|it| it.pending()));
        pending
    }

    fn numbers(&self) -> Numbers {
        Numbers::of(self.store.snapshot())
    }

    /// The last revision that kernel and proxy both follow.
    fn programmed_revision(&self) -> u64 {
        let programmed = self.progress.programmed.load(Ordering::Relaxed);
        programmed.saturating_sub(1).min(self.proxy.revision())
    }

    fn objects(&self) -> BTreeMap<String, u64> {
        let snapshot = self.store.snapshot();
        Kind::ALL
            .iter()
            .map(|kind| (kind.plural().to_owned(), snapshot.count(*kind) as u64))
            .collect()
    }
}

impl api::Node for Node {
    fn status(&self) -> Status {
        let pending = self.pending_parts();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: pending.is_empty(),
            pending,
            draining: self.progress.is_draining(),
            uptime_seconds: self.progress.started.elapsed().as_secs(),
            revision: self.store.snapshot().revision,
            programmed_revision: self.programmed_revision(),
            cgroup: self.settings.cgroup.display().to_string(),
            pin_dir: self.settings.pin_dir.display().to_string(),
            network_namespace: Some(self.host.inode()),
            kernel: kernel_release(),
            acceleration: self.datapath.acceleration().clone(),
            objects: self.objects(),
            workers: self.settings.workers as u64,
            proxied_connections: self.proxy.connections(),
            faults: FaultReport::all(&self.store.snapshot()),
            registry: self.etcd.as_ref().map(|it| it.report()),
            sources: self.board.read(),
        }
    }

    fn coverage(&self) -> Result<CoverageList, NodeError> {
        let standing = self.standing.load();
        let unseen = standing
            .netns
            .iter()
            .map(|(key, netns)| {
                let outside_cgroup = if netns.cookie() == self.host.cookie() {
                    0
                } else {
                    coverage::outside_cgroup(netns.inode(), &self.hooked)
                };
                let older = standing.older.get(key).copied().unwrap_or_default();
                (
                    key.clone(),
                    Unseen {
                        older,
                        outside_cgroup,
                    },
                )
            })
            .collect();
        let stats = self
            .datapath
            .tables()
            .stats
            .entries()
            .map_err(unavailable)?;
        let items = coverage::coverage(&self.store.snapshot(), &stats, &unseen);
        Ok(CoverageList { items })
    }

    fn connections(&self) -> Result<ConnectionList, NodeError> {
        let mut items = connections::connections(
            &self.numbers(),
            &self.namespaces(),
            Storages::of(self.datapath.tables()),
        );
        items.extend(self.closed.list());
        Ok(ConnectionList { items })
    }

    fn graph(&self, namespace: Option<&str>) -> Result<Graph, NodeError> {
        let (mut observed, uncounted) = observed::observed(&self.store, &self.edges, &self.proxy);
        let open = connections::connections(
            &self.numbers(),
            &self.namespaces(),
            Storages::of(self.datapath.tables()),
        );
        observed::add_open(&mut observed, &open);
        let graph = graph::graph(&self.store.snapshot(), &observed, namespace);
        Ok(Graph { uncounted, ..graph })
    }

    fn breakers(&self) -> BreakerList {
        BreakerList {
            items: self.proxy.breakers(),
        }
    }

    fn explain(
        &self,
        source: &ObjectKey,
        destination: SocketAddr,
        transport: Transport,
        request: Option<&RequestQuestion>,
    ) -> Result<Explanation, NodeError> {
        let snapshot = self.store.snapshot();
        let standing = self.standing.load();
        let view = explain::View {
            snapshot: &snapshot,
            enrolled: &standing.enrolled,
            tables: self.datapath.tables(),
            now_ns: clock::monotonic_ns(),
        };
        let explained = explain::explain(&view, source, destination, transport);
        let mut explanation = explained.map_err(|error| match error {
            explain::Error::UnknownWorkload(key) => NodeError::NotFound {
                what: format!("workload {key}"),
            },
            explain::Error::Tables(error) => unavailable(error),
        })?;
        if explanation.verdict == Verdict::Proxy.as_str() {
            let asked = self.proxy.explain(source, destination, request);
            explanation.request = asked.map_err(|error| NodeError::Invalid {
                field: error.field().to_owned(),
                message: error.to_string(),
            })?;
        }
        Ok(explanation)
    }

    fn bpf(&self) -> Result<BpfReport, NodeError> {
        self.datapath.report().map_err(unavailable)
    }

    fn config_dump(&self) -> Value {
        json!({
            "settings": serde_json::to_value(&self.settings).unwrap_or_default(),
            "logLevel": self.telemetry.level(),
        })
    }

    fn set_log_level(&self, level: &str) -> Result<(), NodeError> {
        self.telemetry
            .set_level(level)
            .map_err(|error| NodeError::Invalid {
                field: "level".to_owned(),
                message: super::describe(&error),
            })
    }

    fn beat(
        &self,
        check: &(ObjectKey, String),
        status: HealthStatus,
        output: String,
    ) -> Result<(), Refusal> {
        self.heartbeats.beat(check, status, output)
    }

    fn drain(&self) {
        // Before whoever has asked for it is answered: readiness is gone at once.
        self.progress.draining();
        self.progress.drain.notify_one();
    }

    fn pending(&self) -> Vec<String> {
        self.pending_parts()
    }

    fn metrics(&self) -> String {
        // Writing to a string does not fail.
        self.registry.encode().unwrap_or_default()
    }
}

fn unavailable(error: impl std::error::Error) -> NodeError {
    NodeError::Unavailable {
        message: super::describe(&error),
    }
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

//! What runs beside the data plane: enrolment, heartbeat, events of the kernel, and the API.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mesh_common::event::Kind;
use mesh_common::verdict::Verdict;
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{self, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::{self, Server};
use crate::dns::external::External;
use crate::ebpf::events::{self, Format, Record};
use crate::ebpf::inet_diag::Storages;
use crate::ebpf::stale::Stale;
use crate::net::clock;
use crate::proxy::{Direct, Proxy};
use crate::registry::edges::Edges;
use crate::state::change::NoticeKind;
use crate::state::{Manifest, Notice};

use super::access;
use super::node::Node;
use super::parts::Parts;

/// Starts everything, and gives the API: the rest is stopped only once that has answered all who ask. It answers before the
/// first enrolment is through, and says that the agent is not ready.
pub(super) async fn spawn(
    parts: &Arc<Parts>,
    api: &Handle,
    tasks: &mut JoinSet<Result<()>>,
    stop: &CancellationToken,
) -> Result<JoinHandle<()>> {
    let server = bind(parts, api).await?;
    let access = access::run(Arc::clone(parts), server.access(), api.clone());
    tasks.spawn(access);
    let serving = api.spawn(server.run(stop.clone()));
    tasks.spawn(beat(Arc::clone(parts)));
    tasks.spawn(report(Arc::clone(parts)));
    tasks.spawn(enrol(Arc::clone(parts)));
    tasks.spawn(reset_stale(Arc::clone(parts)));
    tasks.spawn(check_health(Arc::clone(parts)));
    tasks.spawn(resolve_names(parts.external()));
    tasks.spawn(run_checks(Arc::clone(parts)));
    parts.sources.spawn(tasks);
    Ok(serving)
}

/// Binds the API on the thread that will answer.
async fn bind(parts: &Arc<Parts>, api: &Handle) -> Result<Server> {
    let node: Arc<dyn api::Node> = Arc::<Node>::clone(&parts.node);
    let bound = Server::bind(parts.api.clone(), Arc::clone(&parts.node.store), node);
    let bound = api.spawn(bound).await;
    let server = bound.context("the API has panicked")??;
    Ok(server.with_writer(parts.sources.writer.clone()))
}

/// Tells the kernel that the data plane is alive, and notices when its programs were taken out.
async fn beat(parts: Arc<Parts>) -> Result<()> {
    let mut ticks = time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let node = &parts.node;
        let is_attached = node
            .datapath
            .heartbeat(parts.proxy.heartbeat())
            .context("cannot write the heartbeat")?;
        if !is_attached && !node.progress.is_blocked() {
            let why = format!(
                "what was pinned in {} was taken out by `mesh-agent cleanup`: nothing is steered any more. Stop the agent, or start it anew",
                node.settings.pin_dir.display()
            );
            warn!("{why}");
            node.progress.block(why);
        }
    }
}

/// Asks endpoints whether they are well.
async fn check_health(parts: Arc<Parts>) -> Result<()> {
    parts.proxy.check_health(&parts.node.store).await;
    Ok(())
}

/// Finds the endpoints that are known by names outside the mesh.
async fn resolve_names(external: External) -> Result<()> {
    external.run().await;
    Ok(())
}

/// Runs the checks of registrations.
async fn run_checks(parts: Arc<Parts>) -> Result<()> {
    parts.checks.run().await;
    Ok(())
}

/// Turns what the kernel's programs report into lines and metrics.
async fn report(parts: Arc<Parts>) -> Result<()> {
    let ring = parts.node.datapath.events()?;
    let store = Arc::clone(&parts.node.store);
    let closed = Arc::clone(&parts.node.closed);
    let access_log = parts.access_log.clone();
    let proxy = Arc::clone(&parts.proxy);
    let edges = parts.node.edges.clone();
    let sink = move |record: &Record| {
        count(&proxy, record);
        see(&edges, record);
        if record.is_logged() && access_log.is_enabled() {
            access_log.write(record.line(Format::Json, &clock::timestamp()));
        }
    };
    events::run(ring, move || store.snapshot(), closed, sink)
        .await
        .context("cannot read the events of the kernel")
}

/// Counts a closed connection that the proxy has not seen.
fn count(proxy: &Proxy, record: &Record) {
    if record.kind == Kind::Closed && record.verdict == Some(Verdict::Direct) {
        proxy.count_direct(&Direct {
            workload: record.workload_number(),
            original: record.original,
            destination: record.destination.address,
            bytes_sent: record.bytes_sent,
            bytes_received: record.bytes_received,
        });
    }
}

/// Counts who connects to whom: whatever the verdict, where it is over or was refused.
fn see(edges: &Edges, record: &Record) {
    let verdict = match record.kind {
        Kind::Closed => record.verdict,
        Kind::Denied => Some(Verdict::Deny),
        Kind::AuditDenied | Kind::DeniedInbound | Kind::Bypassed => None,
    };
    if let (Some(workload), Some(service), Some(verdict)) =
        (&record.source.workload, &record.service, verdict)
    {
        edges.count(workload, service, verdict);
    }
}

/// Brings registry and kernel together: after each write, and regularly, because namespaces and cgroups come and go.
async fn enrol(parts: Arc<Parts>) -> Result<()> {
    let mut notices = parts.node.store.subscribe();
    let mut ticks = time::interval(RECHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_tick = tokio::select! {
            _ = ticks.tick() => true,
            notice = notices.recv() => match notice {
                Ok(_) | Err(RecvError::Lagged(_)) => false,
                Err(RecvError::Closed) => return Ok(()),
            },
        };
        absorb(&mut notices);
        let parts = Arc::clone(&parts);
        spawn_blocking(move || parts.enrol(is_tick))
            .await
            .context("the enrolment has stopped")?;
    }
}

/// Resets connections to endpoints that are gone: after each write that may have made one so, and when time is up.
async fn reset_stale(parts: Arc<Parts>) -> Result<()> {
    let node = &parts.node;
    let mut notices = node.store.subscribe();
    let mut stale = Stale::new(node.settings.stale_grace);
    loop {
        stale = spawn_blocking({
            let node = Arc::clone(node);
            move || look_for_stale(stale, &node)
        })
        .await
        .context("the look for stale connections has stopped")?;
        // Also bounds what a flood of writes costs.
        time::sleep(RECHECK).await;
        let wait = stale.next_look_ns().map_or(LOOK, |at| {
            Duration::from_nanos(at.saturating_sub(clock::monotonic_ns()))
        });
        let changed = async {
            loop {
                match notices.recv().await {
                    Ok(notice) if !may_leave_stale(&notice) => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return true,
                    Err(RecvError::Closed) => return false,
                }
            }
        };
        if let Ok(false) = time::timeout(wait, changed).await {
            return Ok(());
        }
        absorb(&mut notices);
    }
}

fn look_for_stale(mut stale: Stale, node: &Node) -> Stale {
    // While nothing is mirrored the registry does not say what is gone.
    if node.progress.is_blocked() {
        return stale;
    }
    let storages = Storages::of(node.datapath.tables());
    let now = clock::monotonic_ns();
    let count = stale.look(&node.store.snapshot(), &node.namespaces(), storages, now);
    if count > 0 {
        node.resets.fetch_add(count as u64, Ordering::Relaxed);
        tracing::info!(count, "connections to endpoints that are gone were reset");
    }
    stale
}

/// Whether a write may have taken an endpoint away from connections that lead to it.
fn may_leave_stale(notice: &Notice) -> bool {
    notice.event != NoticeKind::Added
        && matches!(notice.object, Manifest::Endpoint(_) | Manifest::Service(_))
}

/// Takes the notices that are there: one run serves them all.
fn absorb(notices: &mut broadcast::Receiver<Notice>) {
    while matches!(
        notices.try_recv(),
        Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_))
    ) {}
}

/// Time between two heartbeats; the kernel takes an agent for hung after six of them.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Time between two looks for stale connections when nothing has changed: finds what is left of a time without an agent.
const LOOK: Duration = Duration::from_secs(30);

/// Time between two looks at namespaces and cgroups; also the pause before a refused write is tried again.
const RECHECK: Duration = Duration::from_secs(1);

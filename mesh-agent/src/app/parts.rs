//! Every part of the agent, built from the settings.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use mesh_common::service::OUTBOUND_PORT;

use crate::api;
use crate::config;
use crate::config::Settings;
use crate::dns;
use crate::dns::Dns;
use crate::dns::external::External;
use crate::dns::metrics::Lookups;
use crate::ebpf;
use crate::ebpf::Datapath;
use crate::ebpf::mirror::Mirror;
use crate::metrics;
use crate::metrics::Registry;
use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::proxy;
use crate::proxy::Proxy;
use crate::proxy::config::{Limits, Timeouts};
use crate::registry::checks;
use crate::registry::checks::{Checks, Trust};
use crate::state;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::store::Start;
use crate::state::{Store, Writer};
use crate::telemetry::{AccessLog, Telemetry};

use super::counts;
use super::counts::Counts;
use super::enrolment::Enrolment;
use super::facts;
use super::node::{Node, Progress};
use super::observed;
use super::programmed::Programmed;
use super::runtimes::Runtimes;
use super::sources::Sources;

/// What runs.
pub(super) struct Parts {
    /// The data plane.
    pub(super) proxy: Arc<Proxy>,
    /// What the API asks; holds the other parts.
    pub(super) node: Arc<Node>,
    /// Settings of the API.
    pub(super) api: api::Config,
    /// A line per connection and request.
    pub(super) access_log: AccessLog,
    lookups: Lookups,
    /// The checks of registrations.
    pub(super) checks: Checks,
    /// Where objects come from.
    pub(super) sources: Sources,
    enrolment: Mutex<(Enrolment, Programmed)>,
}

impl Parts {
    /// Builds every part. Listens nowhere yet, and enrols nobody.
    pub(super) fn build(
        settings: &Settings,
        hooked: PathBuf,
        telemetry: Telemetry,
        runtimes: &Runtimes,
    ) -> Result<Self> {
        let store = open_store(settings)?;
        // Before anything is loaded into the kernel, where it would stay.
        let trust = Trust::new(settings.check_ca.clone());
        let trust = trust.context("checks cannot use the authorities of --check-ca")?;
        let host = Arc::new(Netns::current().context("cannot open the agent's network namespace")?);
        let datapath = Arc::new(Datapath::open(&datapath_config(settings))?);
        let access_log = access_log(settings);
        let (mut registry, resets) = registry(access_log.clone());
        let sources = Sources::open(settings, &store, &mut registry)?;
        let source = Counts {
            store: Arc::clone(&store),
            datapath: Arc::clone(&datapath),
        };
        let series = ebpf::metrics::register(&mut registry, source);
        let mirror = Mirror::new(datapath.tables(), series)?;
        let config = proxy_config(settings, access_log.clone());
        let proxy = start_proxy(config, (&store, &datapath), &mut registry)?;
        let dns = start_dns(settings, (&store, &datapath, &host), &mut registry)?;
        let lookups = Lookups::register(&mut registry);
        let edges = observed::register(&mut registry, &store, &proxy);
        metrics::runtime::register(&mut registry, runtimes.all(&proxy, dns.as_deref()));
        let enrolment = Enrolment::new(
            Arc::clone(&store),
            Arc::clone(&datapath),
            (Arc::clone(&proxy), dns),
            mirror,
            Arc::clone(&host),
        );
        let api = api_config(settings, api::Metrics::register(&mut registry));
        let progress = progress(settings, &store, &enrolment)?;
        let parts = (&store, &datapath, &proxy, &host);
        let checks = checks_config(settings, parts, &sources.writer, trust);
        let checks = Checks::new(checks, &mut registry);
        let node = Arc::new(Node {
            heartbeats: checks.heartbeats(),
            store: Arc::clone(&store),
            datapath,
            proxy: Arc::clone(&proxy),
            telemetry,
            registry,
            standing: enrolment.standing(),
            closed: Arc::default(),
            host,
            settings: settings.clone(),
            hooked,
            progress,
            edges,
            etcd: sources.etcd.clone(),
            board: sources.board.clone(),
            resets,
        });
        Ok(Self {
            proxy,
            node,
            api,
            access_log,
            lookups,
            checks,
            sources,
            enrolment: Mutex::new((enrolment, Programmed::new(store))),
        })
    }

    /// Brings registry and kernel together once. Blocks.
    pub(super) fn enrol(&self, sweeps: bool) {
        if self.node.progress.is_blocked() || self.node.progress.is_draining() {
            return;
        }
        let (enrolment, programmed) = &mut *self.lock();
        let (revision, report) = enrolment.run(sweeps);
        programmed.tell(&report);
        if sweeps {
            counts::prune(&self.node.store, &self.node.datapath);
        }
        if report.is_complete() {
            self.node.progress.programmed(revision);
        }
    }

    /// What finds the addresses of names outside the mesh.
    pub(super) fn external(&self) -> External {
        let node = &self.node;
        External::new(
            Arc::clone(&node.store),
            Arc::<Datapath>::clone(&node.datapath),
            Arc::clone(&node.host),
            node.settings.resolv_conf.clone(),
            self.lookups.clone(),
        )
    }

    /// Says that nobody is accepted any more: to probes, and to the kernel.
    pub(super) fn withdraw(&self) {
        self.node.progress.draining();
        self.lock().0.withdraw();
    }

    fn lock(&self) -> MutexGuard<'_, (Enrolment, Programmed)> {
        self.enrolment
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registry, with what the agent counts here, and the counter of stale connections.
fn registry(log: AccessLog) -> (Registry, Arc<AtomicU64>) {
    let mut registry = Registry::with_process();
    registry.register_counter(
        "mesh_log_lines_dropped",
        "Lines of the access log that nobody took in time",
        move || log.dropped_lines(),
    );
    let resets = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&resets);
    registry.register_counter(
        "mesh_stale_connections_reset",
        "Direct connections that were reset because their endpoint was gone, had moved or had failed",
        move || counter.load(Ordering::Relaxed),
    );
    (registry, resets)
}

/// The start: blocked where the registry is lost, at each start until it is restored or given up.
fn progress(settings: &Settings, store: &Store, enrolment: &Enrolment) -> Result<Progress> {
    let progress = Progress::new();
    if store.is_new() && enrolment.is_kernel_populated() {
        progress.block(registry_is_lost(settings));
    } else {
        store.settle().context("cannot begin the registry")?;
    }
    Ok(progress)
}

/// What answers questions for names, unless it is switched off.
fn start_dns(
    settings: &Settings,
    (store, datapath, host): (&Arc<Store>, &Arc<Datapath>, &Arc<Netns>),
    registry: &mut Registry,
) -> Result<Option<Arc<Dns>>> {
    if settings.dns == config::Switch::Off {
        return Ok(None);
    }
    let config = dns::Config {
        ttl: settings.dns_ttl,
        resolv_conf: settings.resolv_conf.clone(),
        ..dns::Config::default()
    };
    let dns = Dns::start(
        config,
        Arc::clone(store),
        Arc::<Datapath>::clone(datapath),
        Arc::<Datapath>::clone(datapath),
        Arc::clone(host),
        dns::metrics::Metrics::register(registry),
    );
    let dns = dns.context("cannot start the resolver")?;
    Ok(Some(Arc::new(dns)))
}

/// Why nothing is mirrored from a registry that was not there.
fn registry_is_lost(settings: &Settings) -> String {
    format!(
        "the registry in {} is new, but the maps in {} are not empty: nothing is changed in the kernel. Put the registry back, start with --restore to go back to its last export, or with --reset to forget what is pinned",
        settings.state_dir.display(),
        settings.pin_dir.display()
    )
}

fn open_store(settings: &Settings) -> Result<Arc<Store>> {
    let config = state::store::Config {
        virtual_ranges: settings.virtual_range.clone(),
    };
    // Nothing is forgotten while another agent uses it.
    let claimed = settings
        .reset
        .then(|| ebpf::cleanup::claim(&settings.pin_dir));
    let _claimed = claimed.transpose()?;
    let start = match (settings.reset, settings.restore) {
        (true, _) => Start::Reset,
        (false, true) => Start::Restore,
        (false, false) => Start::Keep,
    };
    let store = Store::start(&settings.state_dir, config, start)?;
    if settings.reset {
        ebpf::cleanup::run(&settings.pin_dir).context("cannot forget what is pinned")?;
    }
    if store.is_restored() {
        tracing::warn!(
            "registry was restored from its last export: what was written after it is lost"
        );
    }
    Ok(Arc::new(store))
}

fn start_proxy(
    config: proxy::Config,
    (store, datapath): (&Arc<Store>, &Arc<Datapath>),
    registry: &mut Registry,
) -> Result<Arc<Proxy>> {
    let conns: Arc<dyn ConnTable> = Arc::<Datapath>::clone(datapath);
    let proxy = Proxy::start(config, Arc::clone(store), conns, registry)?;
    Ok(Arc::new(proxy))
}

/// What checks of registrations are run with, of the parts that are there.
fn checks_config(
    settings: &Settings,
    (store, datapath, proxy, host): (&Arc<Store>, &Arc<Datapath>, &Arc<Proxy>, &Arc<Netns>),
    writer: &Writer,
    trust: Trust,
) -> checks::Config {
    let (writer, judge) = (writer.clone(), writer.clone());
    let table: Arc<dyn ConnTable> = Arc::<Datapath>::clone(datapath);
    let (reader, datapath, proxy) = (Arc::clone(store), Arc::clone(datapath), Arc::clone(proxy));
    let is_busy = move |endpoint: &ObjectKey| {
        let snapshot = reader.snapshot();
        let first = Subject::Endpoint(endpoint.clone(), String::new());
        let ports = snapshot.ids.ports_of(&first).into_iter();
        let mut numbers = ports.map(|port| {
            snapshot
                .ids
                .number(&Subject::Endpoint(endpoint.clone(), port))
        });
        let open = &datapath.tables().open;
        // What cannot be read holds nobody up.
        let is_open = |number| matches!(open.get(&number), Ok(Some(count)) if count > 0);
        numbers.any(|number| proxy.is_busy(number) || is_open(number))
    };
    checks::Config {
        store: Arc::clone(store),
        write: Arc::new(move |change| writer.apply_blocking(change)),
        is_ours: Arc::new(move |metadata| judge.is_responsible(metadata)),
        table,
        host: Arc::clone(host),
        trust: Arc::new(trust),
        node: settings.locality.node.clone(),
        busy: Arc::new(is_busy),
    }
}

fn datapath_config(settings: &Settings) -> ebpf::Config {
    ebpf::Config {
        cgroup: settings.cgroup.clone(),
        pin_dir: settings.pin_dir.clone(),
        acceleration: settings.acceleration == config::Acceleration::OptIn,
    }
}

fn api_config(settings: &Settings, counts: api::Metrics) -> api::Config {
    api::Config {
        counts,
        consul: facts::of(&settings.locality),
        listen: settings.api,
        unix: settings.unix_socket.clone(),
        metrics: Some(settings.metrics),
        token_file: settings.token_file.clone(),
        allowed_hosts: settings.allowed_host.clone(),
    }
}

fn proxy_config(settings: &Settings, access_log: AccessLog) -> proxy::Config {
    let wanted = &settings.proxy;
    proxy::Config {
        workers: settings.workers,
        port: OUTBOUND_PORT,
        limits: Limits {
            connections: wanted.max_connections,
            workload_connections: wanted.max_connections_per_workload,
            buffered_bytes: wanted.max_buffered_bytes,
            workload_buffered_bytes: wanted.max_buffered_bytes_per_workload,
            header_bytes: wanted.max_header_bytes,
            idle_connections: wanted.max_idle_connections,
            requests: wanted.max_requests,
            workload_requests: wanted.max_requests_per_workload,
            queued_requests: wanted.max_queued_requests,
        },
        timeouts: Timeouts {
            connect: wanted.connect_timeout,
            first_byte: wanted.first_byte_timeout,
            header: wanted.header_timeout,
            body: wanted.body_timeout,
            response: wanted.response_timeout,
            keep_alive: wanted.keep_alive_timeout,
            max_age: wanted.max_connection_age,
            idle: wanted.idle_timeout,
            pool_idle: wanted.pool_idle_timeout,
            detect: wanted.detect_timeout,
            detect_race: wanted.detect_race,
            queue: wanted.queue_timeout,
            detected: Timeouts::default().detected,
        },
        path_normalization: wanted.path_normalization,
        access_log,
        locality: settings.locality.clone(),
    }
}

fn access_log(settings: &Settings) -> AccessLog {
    match settings.access_log {
        config::Switch::On => AccessLog::stdout(),
        config::Switch::Off => AccessLog::disabled(),
    }
}

/// Lets the process have as many descriptors as it may: each proxied connection takes two.
pub(super) fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

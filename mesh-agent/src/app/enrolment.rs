//! Enrolment: brings the workloads of the registry into the mesh, and keeps them there.
//!
//! A workload is never half captured: its listeners stand before the kernel learns of it, and go only after the kernel
//! has forgotten it. Everything here blocks for short whiles and runs on one blocking thread at a time.

mod obstacle;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_common::service::{ListenerKey, Role};
use tracing::{info, warn};

use crate::dns::Dns;
use crate::ebpf::coverage;
use crate::ebpf::inet_diag::Storages;
use crate::ebpf::mirror::{Enrolled, Mirror, Place, SyncReport};
use crate::ebpf::{Datapath, Error as DatapathError};
use crate::net::netns::Netns;
use crate::proxy::Proxy;
use crate::state::object::{Condition, ConditionStatus, Kind, ObjectKey};
use crate::state::workload::Workload;
use crate::state::{Change, Snapshot, Store};

use obstacle::Obstacle;

/// Keeps the workloads enrolled that the registry names.
pub(super) struct Enrolment {
    store: Arc<Store>,
    datapath: Arc<Datapath>,
    proxy: Arc<Proxy>,
    /// Answers questions for names, unless that is switched off.
    dns: Option<Arc<Dns>>,
    mirror: Mirror,
    /// The agent's own network namespace.
    host: Arc<Netns>,
    /// Namespaces in which the agent listens, by cookie.
    listening: BTreeMap<u64, Arc<Netns>>,
    /// Namespaces that an earlier agent hooked and nobody has asked for yet, by cookie.
    inherited: BTreeSet<u64>,
    standing: Arc<ArcSwap<Standing>>,
}

/// Who is enrolled, for those who tell about it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// As the kernel knows them.
    pub(super) enrolled: Enrolled,
    /// The network namespace of each.
    pub(super) netns: BTreeMap<ObjectKey, Arc<Netns>>,
    /// Connections that each had before it was enrolled.
    pub(super) older: BTreeMap<ObjectKey, u64>,
}

impl Enrolment {
    /// Nothing is enrolled until the first [`Enrolment::run`].
    pub(super) fn new(
        store: Arc<Store>,
        datapath: Arc<Datapath>,
        (proxy, dns): (Arc<Proxy>, Option<Arc<Dns>>),
        mirror: Mirror,
        host: Arc<Netns>,
    ) -> Self {
        let names = datapath.attached_netns().unwrap_or_default();
        Self {
            store,
            datapath,
            proxy,
            dns,
            mirror,
            host,
            listening: BTreeMap::new(),
            inherited: names.iter().filter_map(|name| name.parse().ok()).collect(),
            standing: Arc::default(),
        }
    }

    /// Who is enrolled, as of the last run.
    pub(super) fn standing(&self) -> Arc<ArcSwap<Standing>> {
        Arc::clone(&self.standing)
    }

    /// Whether the kernel holds what an earlier agent wrote.
    pub(super) fn is_kernel_populated(&self) -> bool {
        self.mirror.is_kernel_populated()
    }

    /// Makes the kernel hold what the registry says, and reports what was written and for which revision; with `sweeps`
    /// also takes out what nobody finds any more, which waits.
    pub(super) fn run(&mut self, sweeps: bool) -> (u64, SyncReport) {
        let snapshot = self.store.snapshot();
        let mut next = Standing::default();
        next.enrolled.is_accelerated = self.datapath.acceleration().enabled;
        next.enrolled.answers_names = self.dns.is_some();
        let mut obstacles = BTreeMap::new();
        for (key, workload) in &snapshot.workloads {
            match self.prepare(workload) {
                Ok((place, netns)) => {
                    next.enrolled.places.insert(key.clone(), place);
                    next.netns.insert(key.clone(), netns);
                }
                Err(obstacle) => {
                    obstacles.insert(key.clone(), obstacle);
                }
            }
        }
        let last = self.standing.load_full();
        next.older = older(&snapshot, &last, &next, &self.datapath);
        let report = self
            .mirror
            .sync(self.datapath.tables(), &snapshot, &next.enrolled);
        if sweeps {
            self.mirror.sweep(self.datapath.tables());
        }
        let next = Arc::new(next);
        self.standing.store(Arc::clone(&next));
        self.leave(&next.enrolled);
        self.tell(&snapshot, &last, &next, &obstacles);
        (snapshot.revision, report)
    }

    /// Takes every listener out of the kernel, so that new connections follow the fail mode of their workload.
    pub(super) fn withdraw(&self) {
        for cookie in self.listening.keys() {
            self.forget_listeners(*cookie);
        }
    }

    /// Makes everything ready that must stand before the kernel learns of a workload.
    fn prepare(&mut self, workload: &Workload) -> Result<(Place, Arc<Netns>), Obstacle> {
        match (&workload.spec.netns, &workload.spec.cgroup) {
            (Some(path), _) => self.prepare_netns(path),
            (None, Some(path)) => self.prepare_cgroup(path),
            // The store admits no such object; should one come, nothing is captured for it.
            (None, None) => self.prepare_cgroup(Path::new("")),
        }
    }

    fn prepare_netns(&mut self, path: &Path) -> Result<(Place, Arc<Netns>), Obstacle> {
        let open = |source| Obstacle::Open {
            path: path.to_owned(),
            source,
        };
        let inode = fs::metadata(path).map_err(open)?.ino();
        let known = self.listening.values().find(|netns| netns.inode() == inode);
        let netns = match known {
            Some(netns) => Arc::clone(netns),
            None => Arc::new(Netns::open(path).map_err(open)?),
        };
        if netns.cookie() == self.host.cookie() {
            return Err(Obstacle::OwnNamespace {
                path: path.to_owned(),
            });
        }
        self.listen(&netns, path)?;
        Ok((Place::Netns(netns.cookie()), netns))
    }

    fn prepare_cgroup(&mut self, path: &Path) -> Result<(Place, Arc<Netns>), Obstacle> {
        let open = |source| Obstacle::Open {
            path: path.to_owned(),
            source,
        };
        let real = fs::canonicalize(path).map_err(open)?;
        let root = fs::canonicalize(self.datapath.cgroup()).map_err(open)?;
        if real == root || !real.starts_with(&root) {
            return Err(Obstacle::OutsideCgroup {
                path: path.to_owned(),
                root,
            });
        }
        let id = fs::metadata(&real).map_err(open)?.ino();
        let host = Arc::clone(&self.host);
        self.listen(&host, path)?;
        Ok((Place::Cgroup(id), host))
    }

    /// Listens in a namespace, unless the agent does already.
    fn listen(&mut self, netns: &Arc<Netns>, path: &Path) -> Result<(), Obstacle> {
        let cookie = netns.cookie();
        if self.listening.contains_key(&cookie) {
            return Ok(());
        }
        let listen = |source| Obstacle::Listen {
            path: path.to_owned(),
            source,
        };
        let listeners = self.proxy.listen(Arc::clone(netns)).map_err(listen)?;
        self.listening.insert(cookie, Arc::clone(netns));
        let listeners = [listeners.v4, listeners.v6];
        let hooked = self
            .datapath
            .attach_netns(&cookie.to_string(), netns.as_fd())
            .and_then(|()| self.announce(cookie, Role::Outbound, &listeners))
            .and_then(|()| self.answer_names(netns));
        hooked
            .map_err(|source| Obstacle::Hook {
                path: path.to_owned(),
                source,
            })
            .inspect_err(|_| self.unlisten(cookie))
    }

    /// Answers questions for names in a namespace. Where that cannot be, they go where they are sent, and the kernel
    /// counts them as those of an agent that is absent.
    fn answer_names(&self, netns: &Arc<Netns>) -> Result<(), DatapathError> {
        let Some(dns) = &self.dns else {
            return Ok(());
        };
        match dns.listen(Arc::clone(netns)) {
            Ok(listeners) => {
                let listeners = [listeners.v4, listeners.v6];
                self.announce(netns.cookie(), Role::Resolver, &listeners)
            }
            Err(error) => {
                warn!(netns = netns.cookie(), %error, "cannot answer questions for names");
                Ok(())
            }
        }
    }

    /// Tells the kernel of the listeners in a namespace, over IPv4 and IPv6.
    fn announce(
        &self,
        netns: u64,
        role: Role,
        listeners: &[Option<OwnedFd>; 2],
    ) -> Result<(), DatapathError> {
        for (family, socket) in [4, 6].into_iter().zip(listeners) {
            if let Some(socket) = socket {
                let role = role as u32;
                let key = ListenerKey {
                    netns,
                    family,
                    role,
                };
                self.datapath.add_listener(key, socket.as_fd())?;
            }
        }
        Ok(())
    }

    fn forget_listeners(&self, cookie: u64) {
        let roles = [Role::Outbound, Role::Resolver].map(|role| role as u32);
        for (family, role) in [4, 6].iter().flat_map(|it| roles.map(|role| (*it, role))) {
            let key = ListenerKey {
                netns: cookie,
                family,
                role,
            };
            if let Err(error) = self.datapath.remove_listener(key) {
                warn!(
                    error = super::describe(&error),
                    "cannot take a listener out of the kernel"
                );
            }
        }
    }

    fn unhook(&self, cookie: u64) {
        if let Err(error) = self.datapath.detach_netns(&cookie.to_string()) {
            warn!(
                error = super::describe(&error),
                "cannot unhook a network namespace"
            );
        }
    }

    fn unlisten(&mut self, cookie: u64) {
        self.listening.remove(&cookie);
        self.forget_listeners(cookie);
        self.unhook(cookie);
        self.proxy.unlisten(cookie);
        if let Some(dns) = &self.dns {
            dns.unlisten(cookie);
        }
    }

    /// Takes down what no workload needs any more.
    fn leave(&mut self, enrolled: &Enrolled) {
        let needed: BTreeSet<u64> = enrolled
            .places
            .values()
            .map(|place| match place {
                Place::Netns(cookie) => *cookie,
                Place::Cgroup(_) => self.host.cookie(),
            })
            .collect();
        for cookie in std::mem::take(&mut self.inherited).difference(&needed) {
            self.unhook(*cookie);
        }
        let gone: Vec<u64> = self
            .listening
            .keys()
            .copied()
            .filter(|cookie| !needed.contains(cookie))
            .collect();
        for cookie in gone {
            self.unlisten(cookie);
        }
    }

    /// Says in the log and in the objects what came of it.
    fn tell(
        &self,
        snapshot: &Snapshot,
        last: &Standing,
        next: &Standing,
        obstacles: &BTreeMap<ObjectKey, Obstacle>,
    ) {
        for (key, place) in &next.enrolled.places {
            if last.enrolled.places.get(key) != Some(place) {
                info!(workload = %key, "enrolled");
            }
        }
        for key in last
            .enrolled
            .places
            .keys()
            .filter(|key| !next.enrolled.places.contains_key(key))
        {
            info!(workload = %key, "left the mesh");
        }
        for (key, workload) in &snapshot.workloads {
            self.condition(key, workload, obstacles.get(key));
        }
    }

    fn condition(&self, key: &ObjectKey, workload: &Workload, obstacle: Option<&Obstacle>) {
        let (status, reason, message) = match obstacle {
            None => (ConditionStatus::True, "Enrolled", String::new()),
            Some(obstacle) => (
                ConditionStatus::False,
                obstacle.reason(),
                super::describe(obstacle),
            ),
        };
        let condition = Condition {
            kind: ENROLLED.to_owned(),
            status,
            reason: reason.to_owned(),
            message,
            observed_generation: workload.metadata.generation,
        };
        if workload.status.conditions.contains(&condition) {
            return;
        }
        if obstacle.is_some() {
            warn!(workload = %key, reason, message = condition.message, "not enrolled");
        }
        let change = Change::Condition {
            kind: Kind::Workload,
            key: key.clone(),
            condition,
        };
        if let Err(refusal) = self.store.apply(change) {
            warn!(workload = %key, %refusal, "cannot record the enrolment");
        }
    }
}

/// Counts what each workload had dialled before it was enrolled: for those that are new, once.
fn older(
    snapshot: &Snapshot,
    last: &Standing,
    next: &Standing,
    datapath: &Datapath,
) -> BTreeMap<ObjectKey, u64> {
    let mut counts = BTreeMap::new();
    for (key, netns) in &next.netns {
        let is_known = last.enrolled.places.get(key) == next.enrolled.places.get(key);
        let known = last.older.get(key).filter(|_| is_known);
        let count = known.copied().map_or_else(
            || {
                let workload = snapshot.workloads.get(key)?;
                let cgroups = workload.spec.cgroup.as_deref().map(coverage::cgroups_below);
                coverage::older(
                    netns,
                    Some(Storages::of(datapath.tables())),
                    cgroups.as_ref(),
                )
                .inspect_err(
                    |error| warn!(workload = %key, %error, "cannot count older connections"),
                )
                .ok()
            },
            Some,
        );
        counts.extend(count.map(|count| (key.clone(), count)));
    }
    counts
}

/// The condition that says whether a workload is enrolled.
const ENROLLED: &str = "Enrolled";

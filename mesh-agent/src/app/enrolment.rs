//! Enrolment: brings the workloads of the registry into the mesh, and keeps them there.
//!
//! A workload is never half captured: its listeners stand before the kernel learns of it, and go only after the kernel
//! has forgotten it. Where the agent cannot listen the kernel learns of it nevertheless, and does as its fail mode says.
//! Everything here blocks for short whiles and runs on one blocking thread at a time.

mod elsewhere;
mod namespaces;
mod obstacle;
mod place;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_common::workload::CGROUP_LEVELS;
use tracing::{info, warn};

use crate::dns::Dns;
use crate::ebpf::Datapath;
use crate::ebpf::coverage;
use crate::ebpf::inet_diag::Storages;
use crate::ebpf::mirror::{Enrolled, Mirror, Place, SyncReport};
use crate::net::netns::Netns;
use crate::proxy::Proxy;
use crate::state::id::Subject;
use crate::state::object::{Condition, ConditionStatus, Kind, ObjectKey};
use crate::state::workload::Workload;
use crate::state::{Change, Snapshot, Store};

use elsewhere::Elsewhere;
use namespaces::Namespaces;
use obstacle::{Obstacle, Obstacles};
use place::Found;

/// Keeps the workloads enrolled that the registry names.
pub(super) struct Enrolment {
    store: Arc<Store>,
    datapath: Arc<Datapath>,
    mirror: Mirror,
    namespaces: Namespaces,
    elsewhere: Elsewhere,
    standing: Arc<ArcSwap<Standing>>,
    /// What stood in the way at the last run.
    obstacles: Obstacles,
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
        Self {
            store,
            namespaces: Namespaces::new(Arc::clone(&datapath), proxy, dns, host),
            datapath,
            mirror,
            elsewhere: Elsewhere::default(),
            standing: Arc::default(),
            obstacles: Obstacles::default(),
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
    /// also takes out what nobody finds any more, which waits, and looks where the processes of workloads are.
    pub(super) fn run(&mut self, sweeps: bool) -> (u64, SyncReport) {
        let snapshot = self.store.snapshot();
        let mut next = Standing::default();
        next.enrolled.is_accelerated = self.datapath.acceleration().enabled;
        next.enrolled.answers_names = self.namespaces.answers_names();
        let mut obstacles = Obstacles::default();
        let found = self.find(&snapshot, &mut obstacles.enrolment);
        let captured = elsewhere::captured(self.namespaces.host().inode(), &found);
        for (key, found) in found {
            if let (Some(netns), Some(workload)) = (found.netns, snapshot.workloads.get(&key)) {
                let path = path(workload);
                if let Err(obstacle) = self.namespaces.serve(&netns, path) {
                    obstacles.enrolment.insert(key.clone(), obstacle);
                }
                if let Err(obstacle) = self.namespaces.answer_names(&netns, path)
                    && workload.spec.dns
                {
                    obstacles.names.insert(key.clone(), obstacle);
                }
                if matches!(found.place, Place::Cgroup(_))
                    && self.elsewhere.has((&key, path), &captured, sweeps)
                {
                    let path = path.to_owned();
                    let obstacles = obstacles.enrolment.entry(key.clone());
                    obstacles.or_insert(Obstacle::Elsewhere { path });
                }
                next.netns.insert(key.clone(), netns);
            }
            next.enrolled.places.insert(key, found.place);
        }
        let places = &next.enrolled.places;
        self.elsewhere.retain(|key| places.contains_key(key));
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
        self.obstacles = obstacles;
        (snapshot.revision, report)
    }

    /// Takes every listener out of the kernel, so that new connections follow the fail mode of their workload.
    pub(super) fn withdraw(&self) {
        self.namespaces.withdraw();
    }

    /// Where each workload is; different paths may lead to one place. Where nothing can be known of that now, it stays
    /// where the kernel has it: else it would drop out of the mesh, and with it the policy that holds for it.
    fn find(
        &mut self,
        snapshot: &Snapshot,
        obstacles: &mut BTreeMap<ObjectKey, Obstacle>,
    ) -> BTreeMap<ObjectKey, Found> {
        let mut found = BTreeMap::new();
        for (key, workload) in &snapshot.workloads {
            match self.look(workload) {
                Ok(it) => drop(found.insert(key.clone(), it)),
                Err(obstacle) => {
                    let number = snapshot.ids.number(&Subject::Workload(key.clone()));
                    let place = place::in_kernel(self.mirror.held(), workload, number);
                    let kept = place.filter(|_| obstacle.is_shortage());
                    let netns = None;
                    found.extend(kept.map(|place| (key.clone(), Found { place, netns })));
                    obstacles.insert(key.clone(), obstacle);
                }
            }
        }
        let held = self.mirror.held();
        let holder = |place| match snapshot.ids.subject(place::number_at(held, place)?) {
            Some(Subject::Workload(key)) => Some(key.clone()),
            _ => None,
        };
        for (key, owner) in place::share(&mut found, holder) {
            let path = snapshot
                .workloads
                .get(&key)
                .map_or_else(|| Path::new(""), |it| path(it));
            let path = path.to_owned();
            obstacles.insert(key, Obstacle::Taken { path, owner });
        }
        found
    }

    fn look(&mut self, workload: &Workload) -> Result<Found, Obstacle> {
        if workload.spec.netns.is_none() {
            return self.look_for_cgroup(path(workload));
        }
        let netns = self.namespaces.open(path(workload))?;
        Ok(Found {
            place: Place::Netns(netns.cookie()),
            netns: Some(netns),
        })
    }

    fn look_for_cgroup(&self, path: &Path) -> Result<Found, Obstacle> {
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
        let cgroup = fs::metadata(&real).map_err(open)?;
        let levels = levels(&real, cgroup.dev());
        if levels > usize::from(CGROUP_LEVELS) {
            return Err(Obstacle::TooDeep {
                path: path.to_owned(),
                levels,
            });
        }
        Ok(Found {
            place: Place::Cgroup(cgroup.ino()),
            netns: Some(Arc::clone(self.namespaces.host())),
        })
    }

    /// Takes down what no workload needs any more.
    fn leave(&mut self, enrolled: &Enrolled) {
        let host = self.namespaces.host().cookie();
        let places = enrolled.places.values();
        let needed = places.map(|place| match place {
            Place::Netns(cookie) => *cookie,
            Place::Cgroup(_) => host,
        });
        self.namespaces.leave(&needed.collect());
    }

    /// Says in the log and in the objects what came of it.
    fn tell(&self, snapshot: &Snapshot, last: &Standing, next: &Standing, obstacles: &Obstacles) {
        for (key, place) in &next.enrolled.places {
            let is_new = last.enrolled.places.get(key) != Some(place);
            let is_whole = !obstacles.enrolment.contains_key(key);
            if is_whole && (is_new || self.obstacles.enrolment.contains_key(key)) {
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
            self.condition(key, workload, ENROLLED, obstacles.enrolment.get(key));
            let has_names = self.namespaces.answers_names() && workload.spec.dns;
            let off = (!has_names).then_some(&Obstacle::NamesOff);
            let names = obstacles.names.get(key);
            let mut conditions = workload.status.conditions.iter();
            // Who always had answers is not told so.
            if names.is_some() || conditions.any(|it| it.kind == NAMES_ANSWERED) {
                self.condition(key, workload, NAMES_ANSWERED, names.or(off));
            }
        }
    }

    fn condition(
        &self,
        key: &ObjectKey,
        workload: &Workload,
        kind: &str,
        obstacle: Option<&Obstacle>,
    ) {
        let (status, reason, message) = match obstacle {
            None => (ConditionStatus::True, kind, String::new()),
            Some(obstacle) => (
                ConditionStatus::False,
                obstacle.reason(),
                super::describe(obstacle),
            ),
        };
        let condition = Condition {
            kind: kind.to_owned(),
            status,
            reason: reason.to_owned(),
            message,
            observed_generation: workload.metadata.generation,
        };
        if workload.status.conditions.contains(&condition) {
            return;
        }
        if obstacle.is_some() {
            warn!(workload = %key, reason, message = condition.message, "{kind} is false");
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

/// At which level of the file system of `device` the directory `path` is; its root is the first.
fn levels(path: &Path, device: u64) -> usize {
    let is_same = |it: &&Path| fs::metadata(it).is_ok_and(|it| it.dev() == device);
    path.ancestors().take_while(is_same).count()
}

/// How people know the place of a workload. The store admits none without; should one come, nothing is captured for it.
fn path(workload: &Workload) -> &Path {
    let spec = &workload.spec;
    let path = spec.netns.as_deref().or(spec.cgroup.as_deref());
    path.unwrap_or_else(|| Path::new(""))
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
pub(super) const ENROLLED: &str = "Enrolled";
/// The condition that says whether its questions for names are answered.
const NAMES_ANSWERED: &str = "NamesAnswered";

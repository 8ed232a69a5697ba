//! The one writer: validates a change, persists it, publishes the next snapshot.

mod intent;
mod opening;
mod preview;
mod version;

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::broadcast;

use super::draft::Draft;
use super::endpoint::Endpoint;
use super::grpc_route::GrpcRoute;
use super::http_route::HttpRoute;
use super::object::{Condition, Kind, ObjectKey};
use super::persist::{self, Disk};
use super::policy::AuthorizationPolicy;
use super::reference_grant::ReferenceGrant;
use super::resource::with_kind;
use super::service::Service;
use super::settle::{Settle, life};
use super::source::{self, Origin, Source};
use super::stream_route::{TcpRoute, TlsRoute};
use super::traffic_policy::TrafficPolicy;
use super::workload::Workload;
use super::{Applied, Change, Manifest, Notice, Refusal, Snapshot, validate, virtual_address};

use intent::{expect_version, has_same_intent, is_foreign, is_of};
use version::{adopt_stamp, stamp};

pub use super::persist::{ExportError, OpenError, Start};

/// Writes that a watcher may lag behind before it has to list again; as many are kept for those who come back.
const MAX_NOTICES: usize = 1024;

/// Settings of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ranges from which virtual addresses are allotted, one address from each; none: services must bring their own.
    pub virtual_ranges: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            virtual_ranges: virtual_address::DEFAULT_RANGES.to_vec(),
        }
    }
}

/// Holder of the current view.
pub struct Store {
    snapshot: ArcSwap<Snapshot>,
    notices: broadcast::Sender<Notice>,
    writer: Mutex<Writer>,
    config: Config,
    clock: fn() -> Timestamp,
    is_new: AtomicBool,
    began_empty: bool,
    is_restored: bool,
}

struct Writer {
    /// `None`: nothing is kept.
    disk: Option<Disk>,
    /// The last writes, oldest first.
    recent: VecDeque<Notice>,
    /// The write before the oldest of `recent`.
    floor: u64,
}

/// Everything from a point in time on.
pub struct Subscription {
    /// The view from which `receiver` goes on.
    pub snapshot: Arc<Snapshot>,
    /// The writes between the point that was asked for and `snapshot`.
    pub missed: Vec<Notice>,
    /// Every write after `snapshot`.
    pub receiver: broadcast::Receiver<Notice>,
}

impl Store {
    /// A store that forgets, with the default settings: for tests, and to judge objects offline.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::in_memory_with(Config::default())
    }

    /// A store that forgets: for tests.
    #[must_use]
    pub fn in_memory_with(config: Config) -> Self {
        Self::new(None, Snapshot::default(), config)
    }

    /// Reads the time from `clock`: for tests.
    #[must_use]
    pub fn with_clock(self, clock: fn() -> Timestamp) -> Self {
        Self { clock, ..self }
    }

    fn new(disk: Option<Disk>, snapshot: Snapshot, config: Config) -> Self {
        // Every later view and every copy has them from this one; else each copy would make its own.
        snapshot.links();
        let writer = Writer {
            disk,
            recent: VecDeque::new(),
            floor: snapshot.revision,
        };
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            notices: broadcast::Sender::new(MAX_NOTICES),
            writer: Mutex::new(writer),
            config,
            clock: Timestamp::now,
            is_new: AtomicBool::new(true),
            began_empty: true,
            is_restored: false,
        }
    }

    /// The current view.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Every later write, in order. A receiver that lags behind by more than 1,024 writes is told so, and lists again.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// The current view and every later write, with none lost or doubled in between; with `since`, also the writes
    /// after that revision. `None` where they are not known any more (or not yet). Blocks while a write is under way.
    pub fn follow(&self, since: Option<u64>) -> Option<Subscription> {
        let writer = self.lock();
        let snapshot = self.snapshot();
        let missed = match since {
            Some(since) if since < writer.floor || since > snapshot.revision => return None,
            Some(since) => {
                let missed = writer.recent.iter().filter(|it| it.revision > since);
                missed.cloned().collect()
            }
            None => Vec::new(),
        };
        Some(Subscription {
            snapshot,
            missed,
            receiver: self.notices.subscribe(),
        })
    }

    /// Makes a change of the API, or refuses it and touches nothing. Blocks while it writes to the disk.
    pub fn apply(&self, change: Change) -> Result<Applied, Refusal> {
        self.apply_from(Source::Api, change)
    }

    /// The same for a source. One that is refused because of another is remembered in the condition `Conflicted`.
    pub fn apply_from(
        &self,
        origin: impl Into<Origin>,
        change: Change,
    ) -> Result<Applied, Refusal> {
        let mut applied = self.apply_all([(origin.into(), change)]);
        applied.pop().unwrap_or(Ok(Applied::Unchanged))
    }

    /// Makes many changes, each made or refused alone, in this order. All of them cost one copy of what they touch, one
    /// write to the disk and one new view. Where the disk refuses, none is made.
    pub fn apply_all(
        &self,
        changes: impl IntoIterator<Item = (Origin, Change)>,
    ) -> Vec<Result<Applied, Refusal>> {
        let mut writer = self.lock();
        let mut draft = self.begin();
        let mut results = Vec::new();
        for (origin, change) in changes {
            results.push(self.draft(&mut draft, &origin, change));
        }
        if let Err(refusal) = self.finish(&mut writer, draft) {
            let made = results.iter_mut().filter(|it| it.is_ok());
            made.for_each(|it| *it = Err(refusal.clone()));
        }
        results
    }

    /// Gives the objects of a source that is not there any more to the API, and says how many there were.
    pub fn release(&self, source: Source) -> Result<usize, Refusal> {
        let mut writer = self.lock();
        let mut draft = self.begin();
        let count = source::release(&mut draft, source);
        self.finish(&mut writer, draft)?;
        Ok(count)
    }

    fn begin(&self) -> Draft {
        let now = format!("{:.0}", (self.clock)());
        Draft::new(&self.snapshot(), now)
    }

    fn finish(&self, writer: &mut Writer, draft: Draft) -> Result<(), Refusal> {
        if draft.notices.is_empty() {
            return Ok(());
        }
        if let Some(disk) = &mut writer.disk {
            disk.commit(&draft)
                .map_err(|error| persist::refusal(&error))?;
        }
        self.publish(writer, draft);
        Ok(())
    }

    fn publish(&self, writer: &mut Writer, draft: Draft) {
        self.snapshot.store(Arc::new(draft.next));
        for notice in draft.notices {
            if writer.recent.len() == MAX_NOTICES
                && let Some(oldest) = writer.recent.pop_front()
            {
                writer.floor = oldest.revision;
            }
            writer.recent.push_back(notice.clone());
            // An error means that nobody listens.
            drop(self.notices.send(notice));
        }
    }

    fn draft(
        &self,
        draft: &mut Draft,
        origin: &Origin,
        change: Change,
    ) -> Result<Applied, Refusal> {
        match change {
            Change::Put(manifest) => {
                source::expect_right(draft, origin.source, manifest.kind(), &manifest.key())?;
                validate::check(&manifest, &draft.next)?;
                match &manifest {
                    Manifest::Service(object) => self.put::<Service>(draft, origin, object),
                    Manifest::Endpoint(object) => self.put::<Endpoint>(draft, origin, object),
                    Manifest::Workload(object) => self.put::<Workload>(draft, origin, object),
                    Manifest::AuthorizationPolicy(object) => {
                        self.put::<AuthorizationPolicy>(draft, origin, object)
                    }
                    Manifest::HttpRoute(object) => self.put::<HttpRoute>(draft, origin, object),
                    Manifest::GrpcRoute(object) => self.put::<GrpcRoute>(draft, origin, object),
                    Manifest::TcpRoute(object) => self.put::<TcpRoute>(draft, origin, object),
                    Manifest::TlsRoute(object) => self.put::<TlsRoute>(draft, origin, object),
                    Manifest::TrafficPolicy(object) => {
                        self.put::<TrafficPolicy>(draft, origin, object)
                    }
                    Manifest::ReferenceGrant(object) => {
                        self.put::<ReferenceGrant>(draft, origin, object)
                    }
                }
            }
            Change::Delete {
                kind,
                key,
                resource_version,
            } => {
                let owner = source::owner(&draft.next, kind, &key);
                if owner.is_some_and(|owner| owner != origin.source) && origin.source != Source::Api
                {
                    source::forget_rival(draft, kind, &key);
                    return Ok(Applied::Unchanged);
                }
                source::expect_right(draft, origin.source, kind, &key)?;
                let wanted = resource_version.unwrap_or_default();
                with_kind!(kind, R => delete::<R>(draft, &key, &wanted))
            }
            Change::Condition {
                kind,
                key,
                condition,
            } => Ok(set_condition(draft, kind, &key, condition)
                .map_or(Applied::Unchanged, Applied::Changed)),
            Change::Check {
                endpoint,
                id,
                status,
                output,
            } => Ok(life::set_check(draft, &endpoint, &id, status, output)
                .map_or(Applied::Unchanged, Applied::Changed)),
            Change::Health { key, health } => Ok(life::set_observed(draft, &key, health)
                .map_or(Applied::Unchanged, Applied::Changed)),
        }
    }

    fn put<R: Settle>(
        &self,
        draft: &mut Draft,
        origin: &Origin,
        wanted: &R,
    ) -> Result<Applied, Refusal> {
        let key = ObjectKey::new(&wanted.metadata().namespace, &wanted.metadata().name);
        let old = R::all(&draft.next).get(&key).cloned();
        let current = old.as_deref().map(R::metadata);
        if !is_foreign(current, wanted.metadata()) {
            expect_version(current, &wanted.metadata().resource_version)?;
        }
        let is_shared = origin.source == Source::Etcd;
        if let Some(old) = &old
            && has_same_intent(&**old, wanted)
            && is_of(old.metadata(), origin)
            && !(is_shared && R::clone(old).adopt(wanted))
        {
            return Ok(Applied::Changed(R::into_manifest(Arc::clone(old))));
        }
        let mut new = wanted.clone();
        stamp(&mut new, old.as_deref(), &draft.now);
        if is_shared {
            new.adopt(wanted);
            adopt_stamp(new.metadata_mut(), wanted.metadata());
        }
        new.metadata_mut().source = origin.source;
        new.metadata_mut().origin.clone_from(&origin.place);
        let old_source = old.as_ref().map(|old| old.metadata().source);
        source::judge(&mut new, old_source, origin.source);
        new.judge(&draft.next, &self.config)?;
        new.live(&draft.now);
        let written = draft.write(new.clone());
        new.arrive(old.as_deref(), draft);
        Ok(match old {
            Some(_) => Applied::Changed(written),
            None => Applied::Created(written),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // A draft is published whole or not at all, so a panic in between has left nothing half done.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delete<R: Settle>(draft: &mut Draft, key: &ObjectKey, wanted: &str) -> Result<Applied, Refusal> {
    let Some(old) = R::all(&draft.next).get(key).cloned() else {
        return Err(Refusal::NotFound {
            kind: R::KIND,
            key: key.clone(),
        });
    };
    expect_version(Some(old.metadata()), wanted)?;
    let removed = draft.remove::<R>(key);
    old.leave(draft);
    Ok(removed.map_or(Applied::Unchanged, Applied::Deleted))
}

fn set_condition(
    draft: &mut Draft,
    kind: Kind,
    key: &ObjectKey,
    condition: Condition,
) -> Option<Manifest> {
    with_kind!(kind, R => draft.set_condition::<R>(key, condition))
}

#[cfg(test)]
mod tests;

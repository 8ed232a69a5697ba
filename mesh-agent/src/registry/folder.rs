//! A folder of YAML and JSON files as a source of objects, looked at a few times a second.
//!
//! Looking is chosen over the notices of the kernel (inotify): those do not tell of a swapped symbolic link further up the
//! path (the way in which Kubernetes replaces mounted files), get lost on network file systems and when their queue is
//! full, and so need the look beside them anyway. A look costs one `stat` per file.
//!
//! A file is read when it has been the same for two looks, so that one that is just being written is not taken for half of
//! itself. What cannot be read, or of which one object cannot be told, keeps its last good objects.

mod look;
mod plan;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, spawn_blocking};
use tokio::time;
use tracing::{info, warn};

use super::Board;
use crate::state::report::SourceReport;
use crate::state::{Change, Origin, Refusal, Source, Store};

use look::{Contents, Listing, Stamp};
use plan::{Plan, Put, Rejection};

/// A folder, and what was last seen in it.
pub struct Folder {
    directory: PathBuf,
    store: Arc<Store>,
    board: Board,
    /// The last look.
    listing: Listing,
    /// Whether there was one. Until then nobody knows what is gone.
    is_listed: bool,
    /// What was read, and the stamp of what was read.
    files: BTreeMap<String, (Stamp, Contents)>,
    /// What was said last of everything that is wrong.
    said: Vec<Rejection>,
    /// What was said last of the folder itself, or of the disk of the registry.
    error: Option<String>,
    /// Why the registry took nothing at the last try.
    disk: Option<String>,
    /// The write of the store after which nothing was left to be done; `None`: something may be.
    settled: Option<u64>,
    /// When the store was brought to the files last.
    tried: Option<Instant>,
    /// Objects that are the folder's.
    objects: u64,
}

impl Folder {
    /// A folder that was not looked at yet.
    #[must_use]
    pub fn new(directory: PathBuf, store: Arc<Store>, board: Board) -> Self {
        Self {
            directory,
            store,
            board,
            listing: Listing::new(),
            is_listed: false,
            files: BTreeMap::new(),
            said: Vec::new(),
            error: None,
            disk: None,
            settled: None,
            tried: None,
            objects: 0,
        }
    }

    /// Reads everything that is there, at once. Blocks.
    pub fn first_look(&mut self) {
        // What is there when the agent starts was not written this very moment.
        if let Ok(listing) = look::list(&self.directory) {
            self.listing = listing;
        }
        self.look();
    }

    /// Follows the folder for ever.
    pub async fn run(mut self) -> Result<(), JoinError> {
        loop {
            let started = Instant::now();
            self = spawn_blocking(move || {
                self.look();
                self
            })
            .await?;
            time::sleep(pause(started.elapsed())).await;
        }
    }

    /// Looks once, and brings the store to what it sees. Blocks.
    fn look(&mut self) {
        let (has_news, error) = match look::list(&self.directory) {
            Ok(listing) => {
                let has_news = self.take(&listing);
                self.listing = listing;
                self.is_listed = true;
                (has_news, None)
            }
            Err(error) => (false, Some(error.to_string())),
        };
        if self.is_listed && (has_news || self.is_worth_another_try()) {
            self.apply();
        }
        self.say_error(error.or_else(|| self.disk.clone()));
        self.post();
    }

    /// What was refused may have become possible by a write of somebody else, or by room on the disk.
    fn is_worth_another_try(&self) -> bool {
        let Some(tried) = self.tried else {
            return true;
        };
        let is_same = self.settled == Some(self.store.snapshot().revision);
        let is_open = self.settled.is_none() || !self.said.is_empty() && !is_same;
        is_open && tried.elapsed() >= RETRY
    }

    /// Reads what is new and has come to rest, and forgets what is gone. Says whether there was anything.
    fn take(&mut self, listing: &Listing) -> bool {
        let before = &self.listing;
        let is_at_rest = |name: &String| before.get(name) == listing.get(name);
        let known = self.files.len();
        self.files
            .retain(|name, _| listing.contains_key(name) || before.contains_key(name));
        let mut has_news = self.files.len() != known;
        for (name, stamp) in listing {
            let is_known = self.files.get(name).is_some_and(|(it, _)| it == stamp);
            if is_known || !is_at_rest(name) {
                continue;
            }
            if let Some(contents) = look::read(&self.directory, name, stamp) {
                self.files.insert(name.clone(), (stamp.clone(), contents));
                has_news = true;
            }
        }
        has_news
    }

    /// Brings the store to what the files say.
    fn apply(&mut self) {
        let files = self.files.iter().map(|(name, (_, it))| (name.as_str(), it));
        let unread = self
            .listing
            .keys()
            .filter(|it| !self.files.contains_key(*it));
        let unread = unread.map(|name| (name.as_str(), &Contents::Unread));
        let files = files.chain(unread);
        let Plan {
            removals,
            puts,
            mut rejections,
        } = plan::plan(files, &self.store.snapshot());
        let mut outcome = Outcome::default();
        outcome.bring(&self.store, removals, puts);
        rejections.append(&mut outcome.rejections);
        rejections.sort();
        self.say(rejections);
        self.tried = Some(Instant::now());
        let snapshot = self.store.snapshot();
        self.settled = outcome.disk.is_none().then_some(snapshot.revision);
        self.disk = outcome.disk.map(|refusal| refusal.to_string());
        let owned = snapshot.manifests();
        let owned = owned.filter(|it| it.metadata().source == Source::Files);
        self.objects = owned.count() as u64;
    }

    fn say(&mut self, rejections: Vec<Rejection>) {
        for it in rejections.iter().filter(|it| !self.said.contains(it)) {
            warn!(source = "files", place = %it.place(), object = %it.object, reason = %it.message, "object is refused, its last good version stays");
        }
        for it in self.said.iter().filter(|it| {
            let same = |other: &&Rejection| other.file == it.file && other.object == it.object;
            !rejections.iter().any(|other| same(&other))
        }) {
            info!(source = "files", file = %it.file, object = %it.object, "object is not refused any more");
        }
        self.said = rejections;
    }

    fn say_error(&mut self, error: Option<String>) {
        if error == self.error {
            return;
        }
        let directory = self.directory.display();
        if let Some(reason) = &error {
            warn!(source = "files", %directory, %reason, "source fails, what it said last stays");
        } else {
            info!(source = "files", %directory, "source is back");
        }
        self.error = error;
    }

    fn post(&self) {
        let shown = self.said.iter().take(SHOWN);
        let report = SourceReport {
            source: Source::Files,
            place: self.directory.display().to_string(),
            error: self.error.clone(),
            objects: self.objects,
            rejected: self.said.len() as u64,
            rejections: shown.map(Rejection::report).collect(),
        };
        self.board.post(Source::Files, report);
    }
}

/// What came of a plan.
#[derive(Default)]
struct Outcome {
    rejections: Vec<Rejection>,
    /// The disk that takes nothing.
    disk: Option<Refusal>,
}

impl Outcome {
    /// Removes and puts in one step. What is refused because of an object that changes in it is tried again after it.
    fn bring(&mut self, store: &Store, removals: Vec<Change>, mut puts: Vec<Put>) {
        let origin = Origin::from(Source::Files);
        let mut removals: Vec<_> = removals
            .into_iter()
            .map(|it| (origin.clone(), it))
            .collect();
        for _ in 0..ROUNDS {
            let changes = std::mem::take(&mut removals);
            let (count, first_put) = (puts.len(), changes.len());
            let changes = changes.into_iter().chain(puts.iter().map(Put::change));
            let mut results = store.apply_all(changes);
            let of_puts = results.split_off(first_put);
            for refusal in results.into_iter().filter_map(Result::err) {
                self.note_disk(&refusal);
            }
            let refused = puts.into_iter().zip(of_puts);
            let refused: Vec<(Put, Refusal)> = refused
                .filter_map(|(put, result)| Some((put, result.err()?)))
                .collect();
            let is_over = refused.is_empty() || refused.len() == count;
            self.reject(&refused);
            puts = refused.into_iter().map(|(put, _)| put).collect();
            if is_over {
                return;
            }
        }
    }

    /// Notes what was refused in a round, in place of what was in the one before.
    fn reject(&mut self, refused: &[(Put, Refusal)]) {
        self.rejections.clear();
        for (put, refusal) in refused {
            if !self.note_disk(refusal) {
                self.rejections.push(put.rejected(refusal));
            }
        }
    }

    fn note_disk(&mut self, refusal: &Refusal) -> bool {
        let is_disk = matches!(refusal, Refusal::DiskFull | Refusal::Storage(_));
        if is_disk {
            self.disk = Some(refusal.clone());
        }
        is_disk
    }
}

/// How long after a look the next one begins: at most a twentieth of the time goes into looking.
fn pause(took: Duration) -> Duration {
    PAUSE.max(took.saturating_mul(19))
}

/// Between two looks at a folder of ordinary size. Two of them pass until a change is in force.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two tries of what was refused.
const RETRY: Duration = Duration::from_secs(1);
/// How often what was refused is tried again because something else was not.
const ROUNDS: usize = 4;
/// Rejections in a report.
const SHOWN: usize = 100;

#[cfg(test)]
mod tests;

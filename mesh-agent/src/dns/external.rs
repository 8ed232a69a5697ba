//! Endpoints outside the mesh that are known by a name: finds their addresses, and keeps an endpoint for each.
//!
//! An endpoint with a `hostname` is a pattern. For every address of the name there is an endpoint like it, named after it
//! and the address. These are objects like others, so that the last good answer outlives a dead resolver and a restart.

pub(super) mod lookup;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::state::object::ObjectKey;
use crate::state::{Manifest, Notice, Snapshot, Store};

use super::metrics::Lookups;
use lookup::{Family, Found, Lookup, Trouble};

/// Finds the addresses of names, again and again.
pub struct External {
    store: Arc<Store>,
    lookup: Arc<Lookup>,
    lookups: Lookups,
    names: BTreeMap<String, Name>,
    /// The endpoints that have them.
    patterns: BTreeSet<ObjectKey>,
    running: JoinSet<(String, Result<Found, Trouble>)>,
}

/// What is known of a name.
#[derive(Debug)]
struct Name {
    /// When it is looked up next; `None` while it is being looked up.
    due: Option<Instant>,
    /// What was found last, or why nothing was.
    last: Option<Result<BTreeSet<IpAddr>, String>>,
    /// The word for why nothing was found.
    reason: &'static str,
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("External").finish_non_exhaustive()
    }
}

impl External {
    /// Asks the resolvers that the file `resolv_conf` names, from the network namespace `netns`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        conns: Arc<dyn ConnTable>,
        netns: Arc<Netns>,
        resolv_conf: PathBuf,
        lookups: Lookups,
    ) -> Self {
        Self {
            store,
            lookup: Arc::new(Lookup {
                netns,
                conns,
                file: resolv_conf,
            }),
            lookups,
            names: BTreeMap::new(),
            patterns: BTreeSet::new(),
            running: JoinSet::new(),
        }
    }

    /// Keeps the endpoints true to their names, as long as the store is there.
    pub async fn run(mut self) {
        let mut notices = self.store.subscribe();
        let mut has_news = true;
        loop {
            if has_news {
                self.follow();
            }
            self.start();
            if has_news {
                self.tell().await;
            }
            let is_free = self.running.len() < MAX_RUNNING;
            let next = self.names.values().filter_map(|name| name.due).min();
            let due = async {
                match next.filter(|_| is_free) {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            has_news = tokio::select! {
                () = due => false,
                Some(ended) = self.running.join_next() => self.take(ended),
                notice = notices.recv() => match notice {
                    Ok(notice) => self.concerns(&notice),
                    Err(RecvError::Lagged(_)) => true,
                    Err(RecvError::Closed) => return,
                },
            };
        }
    }

    /// Whether a write has to do with names. Few have, and looking at all endpoints takes time.
    fn concerns(&self, notice: &Notice) -> bool {
        match &notice.object {
            Manifest::Endpoint(endpoint) => {
                plan::concerns(endpoint) || self.patterns.contains(&endpoint.key())
            }
            _ => false,
        }
    }

    /// Takes over which names are wanted.
    fn follow(&mut self) {
        let wanted = plan::wanted(&self.store.snapshot());
        let names: BTreeSet<&String> = wanted.values().collect();
        self.names.retain(|name, _| names.contains(name));
        for name in names {
            self.names.entry(name.clone()).or_insert_with(|| Name {
                due: Some(Instant::now()),
                last: None,
                reason: "",
            });
        }
        self.patterns = wanted.into_keys().collect();
        self.lookups.names(self.names.len());
    }

    /// Starts the look-ups that are due.
    fn start(&mut self) {
        let now = Instant::now();
        for (name, known) in &mut self.names {
            if self.running.len() >= MAX_RUNNING {
                return;
            }
            if known.due.is_some_and(|due| due <= now) {
                known.due = None;
                let (name, lookup) = (name.clone(), Arc::clone(&self.lookup));
                self.running.spawn(async move {
                    let result = lookup.find(&name).await;
                    (name, result)
                });
            }
        }
    }

    /// Takes up what a look-up has found. Always news.
    fn take(&mut self, ended: Result<(String, Result<Found, Trouble>), JoinError>) -> bool {
        match ended {
            Ok((name, result)) => self.ended(&name, result),
            Err(error) => {
                warn!(%error, "a look-up has failed");
                // Those under way are begun again.
                self.names.retain(|_, name| name.due.is_some());
            }
        }
        true
    }

    fn ended(&mut self, name: &str, result: Result<Found, Trouble>) {
        self.lookups.count(result.is_ok());
        let result = result.map(|found| completed(&self.store.snapshot(), name, found));
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        let life = match result {
            Ok(found) => {
                let last = Some(Ok(found.addresses));
                if known.last != last {
                    info!(hostname = name, addresses = ?last, "resolved");
                }
                known.last = last;
                found.ttl
            }
            Err(trouble) => {
                let message = trouble.to_string();
                if !matches!(&known.last, Some(Err(last)) if *last == message) {
                    warn!(hostname = name, error = message, "not resolved");
                }
                known.reason = trouble.reason();
                known.last = Some(Err(message));
                SHORTEST
            }
        };
        known.due = Some(Instant::now() + life.clamp(SHORTEST, LONGEST));
    }

    /// Writes what follows for the endpoints.
    async fn tell(&self) {
        let snapshot = self.store.snapshot();
        let changes = plan::changes(&snapshot, |name| {
            let known = self.names.get(name)?;
            let last = known.last.as_ref()?;
            Some(match last {
                Ok(addresses) => Ok(addresses),
                Err(message) => Err((known.reason, message.as_str())),
            })
        });
        if changes.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        // A write may wait for the disk.
        let written = spawn_blocking(move || {
            for change in changes {
                if let Err(error) = store.apply(change) {
                    warn!(%error, "cannot write an endpoint that was resolved");
                }
            }
        });
        if let Err(error) = written.await {
            warn!(%error, "the endpoints that were resolved are not written");
        }
    }
}

/// What was found, with the last addresses of the family whose question was lost: they may well be right. Where there are
/// any, the name is looked up again soon.
fn completed(snapshot: &Snapshot, name: &str, mut found: Found) -> Found {
    let Some(family) = found.unknown else {
        return found;
    };
    let last = plan::known(snapshot, name, family == Family::V4);
    if !last.is_empty() {
        found.addresses.extend(last);
        found.ttl = SHORTEST;
    }
    found
}

/// Look-ups at a time. The others wait.
const MAX_RUNNING: usize = 32;

/// An answer is believed for so long at least, and after a failure a name is looked up again: names with a time to live of
/// zero would be asked for without end.
const SHORTEST: Duration = Duration::from_secs(5);

/// An answer is believed for so long at most: what moves is found within minutes, whatever its resolver says.
const LONGEST: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests;

//! What a service port remembers across views.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use super::Workload;
use super::live::SeriesKey;
use crate::net::clock;
use crate::proxy::handles::Handles;
use crate::proxy::metrics::{ChoiceSeries, How, Series};
use crate::traffic::hedge::Usual;
use crate::traffic::retry::budget::Budget;

/// What a service port remembers across views.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// What retries are taken out of where no policy speaks of them.
    pub(crate) budget: Budget,
    learned: AtomicU8,
    server_first_ns: AtomicU64,
    /// Series of what failed before an endpoint was chosen, by caller.
    pub(super) series: Handles<SeriesKey, Series>,
    /// Counters of choices; none where there are too many.
    choices: Handles<How, Option<ChoiceSeries>>,
    /// How long answers usually take, by the share of a thousand that does.
    pub(super) usual: Handles<u32, Usual>,
}

/// What connections to a port of unknown protocol have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Learned {
    /// Nothing yet.
    Nothing = 0,
    /// Clients spoke HTTP.
    Http = 1,
    /// The server spoke first.
    ServerFirst = 2,
}

impl Memory {
    /// What has been learned. That the server speaks first holds for `lasting`: it may have been the wrong one, or one that
    /// has met a silent client, and nothing is looked into as long as it holds.
    pub(crate) fn learned(&self, lasting: Duration) -> Learned {
        match self.learned.load(Ordering::Relaxed) {
            1 => Learned::Http,
            2 if !self.has_lapsed(lasting) => Learned::ServerFirst,
            _ => Learned::Nothing,
        }
    }

    fn has_lapsed(&self, lasting: Duration) -> bool {
        let since_ns = self.server_first_ns.load(Ordering::Relaxed);
        u128::from(clock::monotonic_ns().saturating_sub(since_ns)) >= lasting.as_nanos()
    }

    /// Remembers evidence.
    pub(crate) fn learn(&self, what: Learned) {
        if what == Learned::ServerFirst {
            let now_ns = clock::monotonic_ns();
            self.server_first_ns.store(now_ns, Ordering::Relaxed);
        }
        if self.learned.load(Ordering::Relaxed) != what as u8 {
            self.learned.store(what as u8, Ordering::Relaxed);
        }
    }

    /// The series of a caller for what failed before an endpoint was chosen.
    pub(crate) fn series(&self, caller: &Workload, make: impl FnOnce() -> Series) -> Arc<Series> {
        self.series.find_or_make(&SeriesKey::new(caller, 0), make)
    }

    /// The counter of choices that went so.
    pub(crate) fn chosen(
        &self,
        how: &How,
        make: impl FnOnce() -> Option<ChoiceSeries>,
    ) -> Arc<Option<ChoiceSeries>> {
        self.choices.find_or_make(how, make)
    }
}

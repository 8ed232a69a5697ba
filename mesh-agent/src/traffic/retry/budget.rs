//! How many retries and hedges there may be: a share of the requests of late, and a few per second in any case.
//!
//! The window moves in tenths of itself. Counts are integers, added first and taken back if they were too many: under a
//! race between cores a retry may be refused that had room, but never one too many let through.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::state::traffic_policy::resilience::Budget as Spec;

/// Parts of the window.
const SLOTS: usize = 10;
const TICKS: u64 = 10;
/// A second in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// A budget that all cores share. Time is nanoseconds on a clock that only runs forwards.
#[derive(Debug)]
pub struct Budget {
    percent: u64,
    min_per_second: u64,
    /// Length of a slot, in nanoseconds.
    slot_ns: u64,
    requests: [Slot; SLOTS],
    repeated: [Slot; SLOTS],
    hedged: [Slot; SLOTS],
    /// Retries and hedges of the current second.
    second: Slot,
}

/// What may be refused by a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// An attempt after one that failed.
    Retry,
    /// An attempt beside one that is slow. Hedges get no more than half of the share, so that they leave something to
    /// retries, and no minimum: they are never needed.
    Hedge,
}

impl Default for Budget {
    /// The budget where nobody has set one.
    fn default() -> Self {
        Self::new(Spec::default())
    }
}

impl Budget {
    /// A budget as a policy describes it, with nothing counted.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        Self {
            percent: u64::from(spec.percent),
            min_per_second: u64::from(spec.min_per_second),
            slot_ns: (spec.interval.as_nanos() / TICKS).max(1),
            requests: Default::default(),
            repeated: Default::default(),
            hedged: Default::default(),
            second: Slot::default(),
        }
    }

    /// A request has come.
    pub fn request(&self, now_ns: u64) {
        let tick = now_ns / self.slot_ns;
        if let Some(slot) = self.requests.get(place(tick)) {
            slot.add(tick, 1);
        }
    }

    /// Takes one retry or hedge out of the budget, if there is one.
    #[must_use]
    pub fn take(&self, extra: Extra, now_ns: u64) -> bool {
        let tick = now_ns / self.slot_ns;
        let second = now_ns / SECOND;
        let (Some(repeated), Some(hedged)) =
            (self.repeated.get(place(tick)), self.hedged.get(place(tick)))
        else {
            return false;
        };
        repeated.add(tick, 1);
        self.second.add(second, 1);
        let is_within = count(&self.repeated, tick) * 100 <= self.share(tick);
        let is_admitted = match extra {
            Extra::Retry => is_within || self.second.count(second) <= self.min_per_second,
            Extra::Hedge => {
                hedged.add(tick, 1);
                is_within && count(&self.hedged, tick) * 200 <= self.share(tick)
            }
        };
        if !is_admitted {
            repeated.take_back(tick);
            self.second.take_back(second);
            if extra == Extra::Hedge {
                hedged.take_back(tick);
            }
        }
        is_admitted
    }

    /// Retries that there is room for at this time.
    #[must_use]
    pub fn left(&self, now_ns: u64) -> u64 {
        let tick = now_ns / self.slot_ns;
        let share = (self.share(tick) / 100).saturating_sub(count(&self.repeated, tick));
        let second = self.second.count(now_ns / SECOND);
        share.max(self.min_per_second.saturating_sub(second))
    }

    /// The share of the requests of the window, in hundredths of a retry.
    fn share(&self, tick: u64) -> u64 {
        count(&self.requests, tick) * self.percent
    }
}

/// What was counted in the window that ends with `tick`.
fn count(slots: &[Slot], tick: u64) -> u64 {
    let window = tick.saturating_sub(TICKS - 1)..=tick;
    slots.iter().map(|slot| slot.count_within(&window)).sum()
}

fn place(tick: u64) -> usize {
    usize::try_from(tick % TICKS).unwrap_or(0)
}

/// A count of one moment: the moment in the upper half, the count in the lower.
#[derive(Debug, Default)]
struct Slot(AtomicU64);

impl Slot {
    /// Adds to the count of a moment. A later moment begins at zero; one that is gone counts no more.
    fn add(&self, moment: u64, count: u64) {
        let moment = moment & MOMENT;
        self.0.update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let old = word >> 32;
            match old.cmp(&moment) {
                Equal => (moment << 32) | ((word & COUNT) + count).min(COUNT),
                Less => (moment << 32) | count,
                Greater => word,
            }
        });
    }

    fn take_back(&self, moment: u64) {
        let moment = moment & MOMENT;
        self.0.update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let has_some = word >> 32 == moment && word & COUNT > 0;
            if has_some { word - 1 } else { word }
        });
    }

    fn count(&self, moment: u64) -> u64 {
        self.count_within(&(moment..=moment))
    }

    fn count_within(&self, moments: &std::ops::RangeInclusive<u64>) -> u64 {
        let word = self.0.load(Ordering::Relaxed);
        let moments = (moments.start() & MOMENT)..=(moments.end() & MOMENT);
        if moments.contains(&(word >> 32)) {
            word & COUNT
        } else {
            0
        }
    }
}

/// Bits of a moment: 13 years of tenths of a second.
const MOMENT: u64 = 0xffff_ffff;
const COUNT: u64 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(percent: u32, min_per_second: u32) -> Budget {
        Budget::new(Spec {
            percent,
            min_per_second,
            ..Spec::default()
        })
    }

    #[test]
    fn retries_are_a_share_of_the_requests_of_the_window() {
        let budget = budget(20, 0);
        assert!(!budget.take(Extra::Retry, 0));
        for _ in 0..50 {
            budget.request(0);
        }
        let taken = (0..50).filter(|_| budget.take(Extra::Retry, 1)).count();
        assert_eq!(taken, 10);
        assert_eq!(budget.left(1), 0);
        // Still in the window, and then not.
        assert!(!budget.take(Extra::Retry, 9 * SECOND));
        budget.request(10 * SECOND);
        assert_eq!(count(&budget.repeated, 10), 0);
    }

    #[test]
    fn there_is_a_minimum_per_second() {
        let budget = budget(0, 3);
        for second in 0..5 {
            let taken = (0..10).filter(|_| budget.take(Extra::Retry, second * SECOND));
            assert_eq!(taken.count(), 3);
        }
    }

    #[test]
    fn hedges_have_half_the_share_and_no_minimum() {
        let budget = budget(20, 10);
        for _ in 0..100 {
            budget.request(0);
        }
        let hedges = (0..100).filter(|_| budget.take(Extra::Hedge, 1)).count();
        assert_eq!(hedges, 10);
        let retries = (0..100).filter(|_| budget.take(Extra::Retry, 1)).count();
        assert_eq!(retries, 10, "what is left of the whole");
    }

    #[test]
    fn cores_that_race_never_take_one_too_many() {
        let budget = budget(20, 0);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let once = |_: &i32| {
                            budget.request(0);
                            budget.take(Extra::Retry, 0)
                        };
                        (0..10_000).filter(once).count()
                    })
                })
                .collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert!(taken <= 8000, "{taken}");
        assert!(taken >= 4000, "{taken}");
    }
}

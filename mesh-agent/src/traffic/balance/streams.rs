//! Streams of an endpoint that count as work: those that are young.
//!
//! A request counts until its response has begun, however long that takes: an endpoint that does not answer is busy.
//! What goes on after that (a download, a gRPC stream, a WebSocket) counts for one to two periods more and then no
//! longer, because a stream that lives for hours says nothing about how busy an endpoint is now. Otherwise an endpoint
//! that has collected streams would get no short request until all others have collected as many.

use std::sync::atomic::{AtomicU64, Ordering};

/// Length of a period. A stream counts at least that long, and at most twice as long.
pub const PERIOD_NS: u64 = 8_000_000_000;

const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Young streams of one endpoint: the period, those begun in it, and those begun in the one before, in one word.
#[derive(Debug, Default)]
pub struct Streams(AtomicU64);

/// The period in which a stream has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(u64);

/// The parts of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    /// Number of the period, modulo 2^24.
    period: u64,
    current: u64,
    previous: u64,
}

impl Count {
    const fn unpack(word: u64) -> Self {
        Self {
            period: word >> (2 * COUNT_BITS),
            current: (word >> COUNT_BITS) & COUNT,
            previous: word & COUNT,
        }
    }

    const fn pack(self) -> u64 {
        (self.period << (2 * COUNT_BITS)) | (self.current << COUNT_BITS) | self.previous
    }

    /// The same, as seen from a period.
    const fn seen_in(self, period: u64) -> Self {
        let (current, previous) = if period == self.period {
            (self.current, self.previous)
        } else if period == next(self.period) {
            (0, self.current)
        } else {
            (0, 0)
        };
        Self {
            period,
            current,
            previous,
        }
    }
}

const PERIODS: u64 = 1 << (64 - 2 * COUNT_BITS);

const fn next(period: u64) -> u64 {
    (period + 1) % PERIODS
}

const fn period(now_ns: u64) -> u64 {
    (now_ns / PERIOD_NS) % PERIODS
}

impl Streams {
    /// A stream has begun.
    pub fn begin(&self, now_ns: u64) -> Begun {
        let period = period(now_ns);
        self.update(|count| {
            let mut count = count.seen_in(period);
            count.current = (count.current + 1).min(COUNT);
            count
        });
        Begun(period)
    }

    /// A stream has ended.
    pub fn end(&self, begun: Begun) {
        self.update(|mut count| {
            if count.period == begun.0 {
                count.current = count.current.saturating_sub(1);
            } else if count.period == next(begun.0) {
                count.previous = count.previous.saturating_sub(1);
            }
            count
        });
    }

    /// Streams that count.
    #[must_use]
    pub fn young(&self, now_ns: u64) -> u32 {
        let word = self.0.load(Ordering::Relaxed);
        if word & ((1 << (2 * COUNT_BITS)) - 1) == 0 {
            return 0;
        }
        let count = Count::unpack(word).seen_in(period(now_ns));
        u32::try_from(count.current + count.previous).unwrap_or(u32::MAX)
    }

    fn update(&self, change: impl Fn(Count) -> Count) {
        let next = |word| Some(change(Count::unpack(word)).pack());
        // Always changes, so there is no failure to speak of.
        let order = Ordering::Relaxed;
        let changed = self.0.fetch_update(order, order, next);
        debug_assert!(changed.is_ok(), "there is always a next word");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_counts_until_it_ends_or_is_old() {
        let streams = Streams::default();
        let first = streams.begin(0);
        let second = streams.begin(PERIOD_NS - 1);
        assert_eq!(streams.young(0), 2);
        streams.end(first);
        assert_eq!(streams.young(PERIOD_NS), 1);
        assert_eq!(streams.young(2 * PERIOD_NS), 0);
        let third = streams.begin(2 * PERIOD_NS);
        streams.end(second);
        assert_eq!(streams.young(2 * PERIOD_NS), 1);
        streams.end(third);
        assert_eq!(streams.young(2 * PERIOD_NS), 0);
    }

    #[test]
    fn a_stream_of_the_last_period_can_end_in_this_one() {
        let streams = Streams::default();
        let old = streams.begin(0);
        let new = streams.begin(PERIOD_NS);
        assert_eq!(streams.young(PERIOD_NS), 2);
        streams.end(old);
        assert_eq!(streams.young(PERIOD_NS), 1);
        streams.end(new);
        assert_eq!(streams.young(PERIOD_NS), 0);
    }

    #[test]
    fn more_ends_than_begins_do_no_harm() {
        let streams = Streams::default();
        let begun = streams.begin(0);
        streams.end(begun);
        streams.end(begun);
        assert_eq!(streams.young(0), 0);
    }
}

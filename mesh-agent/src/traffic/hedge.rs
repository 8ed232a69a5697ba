//! When a second endpoint is asked because the first is slow ("The Tail at Scale", Dean and Barroso, 2013).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::state::duration;

/// When a second attempt starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// After so long.
    Fixed(Duration),
    /// After the time within which this many of a thousand answers came of late.
    Quantile(u32),
}

impl After {
    /// Reads `p50`, `p90`, `p95`, `p99` or a duration; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "p50" => Some(Self::Quantile(500)),
            "p90" => Some(Self::Quantile(900)),
            "p95" => Some(Self::Quantile(950)),
            "p99" => Some(Self::Quantile(990)),
            _ => text
                .parse::<duration::Duration>()
                .ok()
                .map(|time| Self::Fixed(time.get())),
        }
    }
}

/// How long a figure that was found out is good for.
const LOOK_NS: u64 = 100_000_000;

/// What is usual among the endpoints of one service port, and when that was found out.
#[derive(Debug, Default)]
pub struct Usual {
    /// Zero while nobody knows.
    nanos: AtomicU64,
    looked_ns: AtomicU64,
}

impl Usual {
    /// The figure; found out anew by `look` where it is old.
    pub fn get(&self, now_ns: u64, look: impl FnOnce() -> Option<Duration>) -> Option<Duration> {
        if now_ns.saturating_sub(self.looked_ns.load(Ordering::Relaxed)) > LOOK_NS {
            self.looked_ns.store(now_ns, Ordering::Relaxed);
            let found = look().map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(0));
            self.nanos.store(found, Ordering::Relaxed);
        }
        let nanos = self.nanos.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

/// Answers that an endpoint needs before its quantiles say anything.
const FEWEST: u32 = 16;
/// When so many are counted, all counts are halved: old answers fade.
const MOST: u32 = 2048;
/// They fade by time, too.
const HALF_LIFE_NS: u64 = 10_000_000_000;
/// Buckets per doubling: a quantile is exact to one part in eight.
const PER_OCTAVE: u64 = 8;
const LOG_PER_OCTAVE: u32 = 3;
/// The longest time told apart is 2^27 microseconds, 134 seconds.
const OCTAVES: u32 = 27;
const BUCKETS: usize = 208;

/// How long the answers of one endpoint took of late: a log-linear histogram that fades. Shared by all cores; a count
/// that is lost in a race does not matter.
#[derive(Debug)]
pub struct Latencies {
    buckets: [AtomicU32; BUCKETS],
    total: AtomicU32,
    faded_ns: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
            total: AtomicU32::new(0),
            faded_ns: AtomicU64::new(0),
        }
    }
}

impl Latencies {
    /// An answer took `latency`.
    pub fn observe(&self, latency: Duration, now_ns: u64) {
        if let Some(bucket) = self.buckets.get(place(latency)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        let faded = self.faded_ns.load(Ordering::Relaxed);
        let is_old = total > FEWEST * 2 && now_ns.saturating_sub(faded) > HALF_LIFE_NS;
        if (is_old || total >= MOST)
            && self
                .faded_ns
                .compare_exchange(faded, now_ns, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.fade();
        }
    }

    /// The time within which `permille` of a thousand answers came; `None` while too few have been seen.
    #[must_use]
    pub fn quantile(&self, permille: u32) -> Option<Duration> {
        let counts = || self.buckets.iter().map(|it| it.load(Ordering::Relaxed));
        let total: u64 = counts().map(u64::from).sum();
        if total < u64::from(FEWEST) {
            return None;
        }
        let wanted = (total * u64::from(permille)).div_ceil(1000);
        let mut sum = 0;
        let place = counts().position(|count| {
            sum += u64::from(count);
            sum >= wanted
        });
        place.map(|place| Duration::from_micros(upper(place)))
    }

    fn fade(&self) {
        let mut total = 0;
        for bucket in &self.buckets {
            let half = bucket.load(Ordering::Relaxed) / 2;
            bucket.store(half, Ordering::Relaxed);
            total += half;
        }
        self.total.store(total, Ordering::Relaxed);
    }
}

/// The bucket of a latency.
fn place(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    let micros = micros.min((1 << (OCTAVES + 1)) - 1);
    if micros < PER_OCTAVE {
        return usize::try_from(micros).unwrap_or(0);
    }
    let octave = micros.ilog2() - LOG_PER_OCTAVE;
    let place = (u64::from(octave) + 1) * PER_OCTAVE + ((micros >> octave) & (PER_OCTAVE - 1));
    usize::try_from(place).unwrap_or(BUCKETS - 1)
}

/// The longest latency of a bucket, in microseconds.
fn upper(place: usize) -> u64 {
    let place = u64::try_from(place).unwrap_or(0);
    if place < PER_OCTAVE {
        return place;
    }
    let (octave, part) = (place / PER_OCTAVE - 1, place % PER_OCTAVE);
    ((PER_OCTAVE + part + 1) << octave) - 1
}

/// What is usual among endpoints, of one figure of each: the lower median, so that neither a slow endpoint nor one that
/// fails quickly sets the pace.
#[must_use]
pub fn usual(mut figures: Vec<Duration>) -> Option<Duration> {
    figures.sort_unstable();
    figures.get(figures.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_a_quantile_or_fixed() {
        let quantiles = ["p50", "p90", "p95", "p99"].map(After::parse);
        assert_eq!(
            quantiles,
            [500, 900, 950, 990].map(|permille| Some(After::Quantile(permille)))
        );
        assert_eq!(
            After::parse("20ms"),
            Some(After::Fixed(Duration::from_millis(20)))
        );
        assert_eq!(After::parse("p96"), None);
    }

    #[test]
    fn every_latency_has_a_bucket_that_is_close() {
        for micros in
            (0..2000).chain((1..27).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]))
        {
            let upper = upper(place(Duration::from_micros(micros)));
            assert!(
                upper >= micros && upper - micros <= micros / 8,
                "{micros} {upper}"
            );
        }
        assert!(place(Duration::MAX) < BUCKETS);
        assert_eq!(place(Duration::from_micros((1 << 28) - 1)), BUCKETS - 1);
    }

    #[test]
    fn a_quantile_is_what_most_stay_below() {
        let latencies = Latencies::default();
        assert_eq!(latencies.quantile(950), None);
        for number in 1..=1000 {
            latencies.observe(Duration::from_micros(number * 10), 0);
        }
        for permille in [500, 900, 950, 990] {
            let exact = f64::from(permille) * 10.0;
            let found = latencies.quantile(permille).unwrap().as_micros();
            let ratio = f64::from(u32::try_from(found).unwrap()) / exact;
            assert!((1.0..=1.13).contains(&ratio), "{permille} {found}");
        }
    }

    #[test]
    fn old_answers_fade() {
        let latencies = Latencies::default();
        for _ in 0..1000 {
            latencies.observe(Duration::from_millis(100), 0);
        }
        for second in 0..200_u64 {
            latencies.observe(Duration::from_millis(1), second * 1_000_000_000);
        }
        assert!(latencies.quantile(900).unwrap() < Duration::from_millis(2));
        for _ in 0..100_000 {
            latencies.observe(Duration::from_millis(1), 0);
        }
        assert!(latencies.total.load(Ordering::Relaxed) < MOST);
    }

    #[test]
    fn a_figure_is_good_for_a_while() {
        let usual = Usual::default();
        let millis = |millis| move || Some(Duration::from_millis(millis));
        let now = 2 * LOOK_NS;
        assert_eq!(usual.get(now, || None), None);
        assert_eq!(usual.get(now + LOOK_NS, millis(1)), None);
        let found = Some(Duration::from_millis(2));
        assert_eq!(usual.get(now + LOOK_NS + 1, millis(2)), found);
        assert_eq!(usual.get(now + LOOK_NS + 2, millis(3)), found);
    }

    #[test]
    fn one_slow_endpoint_does_not_set_the_pace() {
        let millis = |figures: &[u64]| {
            let figures = figures.iter().copied().map(Duration::from_millis).collect();
            usual(figures).map(|time| time.as_millis())
        };
        assert_eq!(millis(&[100, 2, 3]), Some(3));
        assert_eq!(millis(&[2, 100]), Some(2));
        assert_eq!(millis(&[]), None);
    }
}

//! How many places a worker has: as many as let it come round in time.
//!
//! The measure of overload is the lag: how long a task that is ready waits until the worker comes round to it. A worker
//! whose lag is small is not overloaded, however many requests wait for slow endpoints. While several workloads are
//! active and the lag is too large, the places become fewer by an eighth at a time, and more by a sixteenth when it is
//! small again (additive increase would take too long where endpoints are slow).

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    most: usize,
    places: usize,
    /// Lag as a moving average.
    lag_ns: u64,
    /// Since when there was no need for a limit.
    calm_since_ns: Option<u64>,
}

/// What was seen at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub now_ns: u64,
    /// How long the worker took to come round.
    pub lag_ns: u64,
    /// Requests under way.
    pub active: usize,
    /// Requests that wait.
    pub queued: usize,
    /// Workloads that have sent requests lately.
    pub workloads: usize,
}

impl Level {
    /// As many places as there may be.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            most,
            places: most,
            lag_ns: 0,
            calm_since_ns: None,
        }
    }

    /// Whether there are fewer places than there may be.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.places < self.most
    }

    /// Places.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.places
    }

    /// Lag, averaged over the last few looks, in nanoseconds.
    #[must_use]
    pub const fn lag_ns(&self) -> u64 {
        self.lag_ns
    }

    /// Whether the worker is far from too late, and not limited.
    #[must_use]
    pub const fn is_calm(&self) -> bool {
        self.lag_ns < MOST_LAG_NS / 4 && !self.is_limited()
    }

    /// Decides anew.
    pub fn look(&mut self, look: &Look) {
        self.lag_ns = (self.lag_ns * 3 + look.lag_ns) / 4;
        let is_late = self.lag_ns > MOST_LAG_NS;
        let is_contended = look.workloads > 1;
        if is_late && is_contended {
            self.calm_since_ns = None;
            // From what there is, not from what there might be.
            let from = self.places.min(look.active);
            self.places = (from - from / 8 - usize::from(from > FEWEST))
                .max(FEWEST)
                .min(self.most);
            return;
        }
        if !self.is_limited() {
            return;
        }
        let is_used = look.queued > 0 || look.active >= self.places;
        if is_used && self.lag_ns < MOST_LAG_NS / 2 {
            self.places = (self.places + self.places / 16 + 1).min(self.most);
        }
        if is_used && is_contended {
            self.calm_since_ns = None;
            return;
        }
        let since = *self.calm_since_ns.get_or_insert(look.now_ns);
        if look.now_ns.saturating_sub(since) >= CALM_NS {
            *self = Self {
                lag_ns: self.lag_ns,
                ..Self::new(self.most)
            };
        }
    }
}

/// A worker that takes longer to come round has too much at once. A request comes round about four times on its way.
const MOST_LAG_NS: u64 = 250_000;
/// Always that many places.
const FEWEST: usize = 4;
/// After so long without need there is no limit.
const CALM_NS: u64 = 1_000_000_000;

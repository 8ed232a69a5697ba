//! How long an endpoint is left alone that refuses connections or answers badly.

use std::time::Duration;

/// How the time out grows from one ejection to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Each is twice as long as the last.
    Doubling,
    /// Each is longer by the first: Envoy's outlier detection.
    Linear,
}

/// How long an ejection lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The first time.
    pub base: Duration,
    /// At most.
    pub longest: Duration,
    /// From one to the next.
    pub growth: Growth,
}

/// Of an endpoint that refuses connections, without being told: it may only be starting again.
pub const REFUSED: Terms = Terms {
    base: Duration::from_secs(1),
    longest: Duration::from_secs(30),
    growth: Growth::Doubling,
};

/// Ejections of one endpoint for one cause. Time is nanoseconds on any clock that only runs forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    times: u32,
    until_ns: u64,
    /// Whether it was in at the last look.
    was_in: bool,
}

impl Ejection {
    /// Until when it is left alone; zero for one that is not.
    #[must_use]
    pub const fn until_ns(&self) -> u64 {
        self.until_ns
    }

    /// How often it was put aside, less what has been forgiven.
    #[must_use]
    pub const fn times(&self) -> u32 {
        self.times
    }

    /// It is put aside. What comes while it is out already was under way, and does not count.
    #[must_use]
    pub fn ejected(self, terms: &Terms, now_ns: u64) -> Self {
        if now_ns < self.until_ns {
            return self;
        }
        let times = self.times.saturating_add(1);
        let factor = match terms.growth {
            Growth::Doubling => 1_u32.checked_shl(times - 1).unwrap_or(u32::MAX),
            Growth::Linear => times,
        };
        let length = terms.base.saturating_mul(factor).min(terms.longest);
        let length_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self {
            times,
            until_ns: now_ns.saturating_add(length_ns),
            was_in: false,
        }
    }

    /// It has worked again: all is forgotten.
    #[must_use]
    pub fn forgotten(self) -> Self {
        Self::default()
    }

    /// Its time is over, if it is: it stays known how often it was put aside.
    #[must_use]
    pub const fn ended(self, now_ns: u64) -> Self {
        if now_ns < self.until_ns {
            return self;
        }
        Self {
            until_ns: 0,
            ..self
        }
    }

    /// It is looked at, as once in each interval: if it has been in since the last look, one of the times is forgiven.
    #[must_use]
    pub const fn looked_at(self, now_ns: u64) -> Self {
        if now_ns < self.until_ns {
            return self;
        }
        let forgiven = if self.was_in { 1 } else { 0 };
        Self {
            times: self.times.saturating_sub(forgiven),
            until_ns: 0,
            was_in: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn lengths(terms: &Terms) -> Vec<u64> {
        let mut ejection = Ejection::default();
        let mut now = 5;
        let mut lengths = Vec::new();
        for _ in 0..7 {
            ejection = ejection.ejected(terms, now);
            lengths.push((ejection.until_ns() - now) / SECOND);
            now = ejection.until_ns();
        }
        lengths
    }

    #[test]
    fn each_refusal_doubles_the_time_up_to_a_limit() {
        assert_eq!(lengths(&REFUSED), [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn each_outlier_is_out_longer_by_the_first_time() {
        let terms = Terms {
            base: Duration::from_secs(30),
            longest: Duration::from_secs(150),
            growth: Growth::Linear,
        };
        assert_eq!(lengths(&terms), [30, 60, 90, 120, 150, 150, 150]);
    }

    #[test]
    fn refusals_of_connections_that_were_under_way_count_once() {
        let once = Ejection::default().ejected(&REFUSED, 0);
        assert_eq!(once.ejected(&REFUSED, SECOND / 2), once);
    }

    #[test]
    fn what_works_again_is_forgiven_at_once_or_by_and_by() {
        let ejection = Ejection::default().ejected(&REFUSED, 0);
        let ejection = ejection.ejected(&REFUSED, SECOND);
        assert_eq!(ejection.forgotten(), Ejection::default());
        assert_eq!(ejection.looked_at(2 * SECOND), ejection, "it is out");
        let back = ejection.looked_at(3 * SECOND);
        assert_eq!((back.times(), back.until_ns()), (2, 0));
        let once = back.looked_at(4 * SECOND);
        assert_eq!(once.times(), 1);
        let never = once.looked_at(5 * SECOND).looked_at(6 * SECOND);
        assert_eq!(never.times(), 0);
    }

    #[test]
    fn who_has_been_in_for_a_part_of_an_interval_is_not_forgiven() {
        // Out, and back, between two looks.
        let ejection = Ejection::default().looked_at(1).ejected(&REFUSED, 2);
        let back = ejection.ended(2 + SECOND);
        assert_eq!((back.times(), back.until_ns()), (1, 0));
        assert_eq!(back.looked_at(2 * SECOND).times(), 1);
        // A look that finds it out begins no interval.
        let ejection = ejection.looked_at(3).ended(2 + SECOND);
        assert_eq!(ejection.looked_at(2 * SECOND).times(), 1);
    }
}

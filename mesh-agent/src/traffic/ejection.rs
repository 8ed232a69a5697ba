//! How long an endpoint that refuses connections is left alone.

use std::time::Duration;

/// The first time.
const SHORTEST: Duration = Duration::from_secs(1);
/// At most.
const LONGEST: Duration = Duration::from_secs(30);

/// Refusals of one endpoint. Time is nanoseconds on any clock that only runs forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    refusals: u32,
    until_ns: u64,
}

impl Ejection {
    /// Until when it is left alone; zero for one that is not.
    #[must_use]
    pub const fn until_ns(&self) -> u64 {
        self.until_ns
    }

    /// It has refused. Further refusals while it is out already were under way, and do not count.
    #[must_use]
    pub fn refused(self, now_ns: u64) -> Self {
        if now_ns < self.until_ns {
            return self;
        }
        let refusals = self.refusals.saturating_add(1);
        let factor = 1_u32.checked_shl(refusals - 1).unwrap_or(u32::MAX);
        let length = SHORTEST.saturating_mul(factor).min(LONGEST);
        let length_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self {
            refusals,
            until_ns: now_ns.saturating_add(length_ns),
        }
    }

    /// It has accepted: all is forgotten.
    #[must_use]
    pub fn accepted(self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::Ejection;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn each_refusal_doubles_the_time_up_to_a_limit() {
        let mut ejection = Ejection::default();
        let mut now = 5;
        let mut lengths = Vec::new();
        for _ in 0..7 {
            ejection = ejection.refused(now);
            lengths.push((ejection.until_ns() - now) / SECOND);
            now = ejection.until_ns();
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn refusals_of_connections_that_were_under_way_count_once() {
        let once = Ejection::default().refused(0);
        assert_eq!(once.refused(SECOND / 2), once);
    }

    #[test]
    fn an_accepted_connection_forgives() {
        let ejection = Ejection::default().refused(0).accepted();
        assert_eq!(ejection.until_ns(), 0);
    }
}

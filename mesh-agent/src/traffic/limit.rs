//! Token buckets: how often something may happen, exact on the node however many threads ask.
//!
//! A bucket is one number, the theoretical arrival time of the generic cell rate algorithm (ITU-T I.371, annex A): the
//! time at which it is full again. So it needs no refilling, a full one equals a forgotten one, and one
//! compare-exchange decides.

pub mod keyed;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast tokens come, and how many may be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    amount: u64,
    per_ns: u64,
    burst: u64,
    /// Time for one token, rounded up: never more than the limit.
    unit_ns: u64,
    /// Time for all that may be saved.
    burst_ns: u64,
}

/// Something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// How long it must wait for its turn, in nanoseconds; zero: not at all.
    pub delay_ns: u64,
    /// Tokens that are left.
    pub remaining: u64,
    /// Nanoseconds until the bucket is full again.
    pub reset_ns: u64,
}

/// It may not; it may after so many nanoseconds, if nobody else comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Nanoseconds.
    pub retry_ns: u64,
}

impl Rate {
    /// `amount` tokens per `per`, of which `burst` may be saved. Zeros count as one token, and one nanosecond.
    #[must_use]
    pub fn new(amount: u64, per: Duration, burst: u64) -> Self {
        let amount = amount.max(1);
        let per_ns = nanos(per).max(1);
        let unit_ns = per_ns.div_ceil(amount);
        let mut rate = Self {
            amount,
            per_ns,
            burst: burst.max(1),
            unit_ns,
            burst_ns: 0,
        };
        rate.burst_ns = rate.cost(rate.burst);
        rate
    }

    /// Tokens that may be saved.
    #[must_use]
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// Tokens that come in a second, at least one.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let tokens =
            u128::from(self.amount).saturating_mul(SECOND.into()) / u128::from(self.per_ns);
        u64::try_from(tokens).unwrap_or(u64::MAX).max(1)
    }

    /// The time in which `tokens` come, rounded up.
    fn cost(&self, tokens: u64) -> u64 {
        if tokens == 1 || self.unit_ns >= COARSE {
            return self.unit_ns.saturating_mul(tokens);
        }
        // So many tokens a second that rounding each would show.
        let wide = u128::from(self.per_ns).saturating_mul(tokens.into());
        u64::try_from(wide.div_ceil(self.amount.into())).unwrap_or(u64::MAX)
    }

    /// What becomes of a bucket that is full at `full_ns` when `tokens` are taken from it, by one who waits at most
    /// `patience_ns`.
    fn take(
        &self,
        full_ns: u64,
        now_ns: u64,
        tokens: u64,
        patience_ns: u64,
    ) -> Result<(u64, Granted), Refused> {
        let next = full_ns.max(now_ns).saturating_add(self.cost(tokens));
        let ahead = next - now_ns;
        let delay_ns = ahead.saturating_sub(self.burst_ns);
        if delay_ns > patience_ns {
            return Err(Refused {
                retry_ns: delay_ns - patience_ns,
            });
        }
        let granted = Granted {
            delay_ns,
            remaining: self.burst_ns.saturating_sub(ahead) / self.unit_ns,
            reset_ns: ahead,
        };
        Ok((next, granted))
    }
}

/// A bucket that many threads take from.
#[derive(Debug, Default)]
pub struct Bucket {
    full_ns: AtomicU64,
}

impl Bucket {
    /// Takes tokens, if they are there within `patience_ns`. Time is nanoseconds on a clock that only runs forwards.
    pub fn take(
        &self,
        rate: &Rate,
        now_ns: u64,
        tokens: u64,
        patience_ns: u64,
    ) -> Result<Granted, Refused> {
        let mut full = self.full_ns.load(Ordering::Relaxed);
        loop {
            let (next, granted) = rate.take(full, now_ns, tokens, patience_ns)?;
            // Only this number is shared; nothing else is published by it.
            let result = self.full_ns.compare_exchange_weak(
                full,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match result {
                Ok(_) => return Ok(granted),
                Err(seen) => full = seen,
            }
        }
    }

    /// Gives tokens back that were taken and not used.
    pub fn give_back(&self, rate: &Rate, tokens: u64) {
        let cost = rate.cost(tokens);
        let less = |full: u64| Some(full.saturating_sub(cost));
        // It never fails: there always is a next value.
        let _before = self
            .full_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// In nanoseconds.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const SECOND: u64 = 1_000_000_000;

/// From this time for a token on, rounding it up costs less than one in a thousand.
const COARSE: u64 = 1000;

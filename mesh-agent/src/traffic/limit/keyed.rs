//! Buckets by key: each caller, identity or header value has its own, and there is a bound.

use std::collections::HashMap;

use super::{Granted, Rate, Refused};

/// Buckets of one limit, or of a part of its keys.
///
/// Keys are hashes; two keys with one hash share a bucket. When there are too many buckets, first those go that are
/// full: a full bucket equals a new one. If that is not enough, the eighth goes that is nearest to full, so that what is
/// forgotten gives away the fewest tokens, and who uses most is remembered longest.
#[derive(Debug)]
pub struct Keyed {
    full_ns: HashMap<u64, u64, foldhash::fast::RandomState>,
    capacity: usize,
    forgotten: u64,
}

impl Keyed {
    /// Room for `capacity` buckets, at least 8.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            full_ns: HashMap::default(),
            capacity: capacity.max(8),
            forgotten: 0,
        }
    }

    /// Takes tokens from the bucket of `key`, if they are there within `patience_ns`.
    pub fn take(
        &mut self,
        rate: &Rate,
        key: u64,
        now_ns: u64,
        tokens: u64,
        patience_ns: u64,
    ) -> Result<Granted, Refused> {
        if let Some(full) = self.full_ns.get_mut(&key) {
            let (next, granted) = rate.take(*full, now_ns, tokens, patience_ns)?;
            *full = next;
            return Ok(granted);
        }
        let (next, granted) = rate.take(0, now_ns, tokens, patience_ns)?;
        if self.full_ns.len() >= self.capacity {
            self.forget(now_ns);
        }
        self.full_ns.insert(key, next);
        Ok(granted)
    }

    /// Gives tokens back that were taken and not used.
    pub fn give_back(&mut self, rate: &Rate, key: u64, tokens: u64) {
        if let Some(full) = self.full_ns.get_mut(&key) {
            *full = full.saturating_sub(rate.cost(tokens));
        }
    }

    /// Buckets that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.full_ns.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full_ns.is_empty()
    }

    /// Buckets that were forgotten before they were full.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn forget(&mut self, now_ns: u64) {
        self.full_ns.retain(|_, full| *full > now_ns);
        let kept = self.capacity - self.capacity / 8;
        let Some(excess) = self.full_ns.len().checked_sub(kept).filter(|it| *it > 0) else {
            return;
        };
        let mut times: Vec<u64> = self.full_ns.values().copied().collect();
        let (_, last, _) = times.select_nth_unstable(excess - 1);
        let last = *last;
        let before = self.full_ns.len();
        self.full_ns.retain(|_, full| *full > last);
        let gone = before - self.full_ns.len();
        self.forgotten += u64::try_from(gone).unwrap_or(u64::MAX);
    }
}

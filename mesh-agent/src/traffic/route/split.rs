//! Who takes a request or connection: backends by weight.

use crate::state::object::{Kind, ObjectKey};

/// A port of a service that takes requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The service.
    pub service: ObjectKey,
    /// Number of its port; absent: its first one.
    pub port: Option<u16>,
    /// Kind of who sends there.
    pub kind: Kind,
    /// Who must be permitted to send there, where the service's namespace has a say in it.
    pub stranger: Option<Box<Stranger>>,
}

/// Who sends to a service of another namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stranger {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
}

/// Shares of the traffic.
#[derive(Clone, Debug)]
pub struct Split<T> {
    shares: Vec<T>,
    /// Sum of the weights up to and with each share.
    bounds: Vec<u64>,
}

impl<T> Default for Split<T> {
    fn default() -> Self {
        Self {
            shares: Vec::new(),
            bounds: Vec::new(),
        }
    }
}

impl<T> Split<T> {
    /// Shares by weight, in the order in which they are given.
    pub fn new(shares: impl IntoIterator<Item = (T, u32)>) -> Self {
        let mut split = Self::default();
        let mut sum = 0;
        for (share, weight) in shares {
            sum += u64::from(weight);
            split.shares.push(share);
            split.bounds.push(sum);
        }
        split
    }

    /// Picks a share by a random number, which is asked for where there is a choice; `None` where no share has a weight.
    #[must_use]
    pub fn pick(&self, dice: impl FnOnce() -> u64) -> Option<&T> {
        let total = *self.bounds.last()?;
        if let ([only], true) = (self.shares.as_slice(), total > 0) {
            return Some(only);
        }
        let random = dice();
        // Lemire, "Fast random integer generation in an interval" (2019), without the rejection: the bias is below
        // one in 10^9.
        let point = u64::try_from((u128::from(random) * u128::from(total)) >> 64).ok()?;
        let index = self.bounds.partition_point(|bound| *bound <= point);
        self.shares.get(index)
    }

    /// Every share with its weight.
    pub fn iter(&self) -> impl Iterator<Item = (&T, u64)> {
        let mut before = 0;
        let weights = self.bounds.iter().map(move |bound| {
            let weight = bound - before;
            before = *bound;
            weight
        });
        self.shares.iter().zip(weights)
    }

    /// Sum of all weights.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.bounds.last().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_weights() {
        let split = Split::new([("a", 90), ("none", 0), ("b", 10)]);
        let mut counts = std::collections::BTreeMap::new();
        for step in 0..1000_u64 {
            let random = step * (u64::MAX / 1000);
            *counts.entry(*split.pick(|| random).unwrap()).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 2, "{counts:?}");
        assert!((899..=901).contains(&counts["a"]), "{counts:?}");
        assert_eq!(split.pick(|| u64::MAX), Some(&"b"));
        assert_eq!(split.pick(|| 0), Some(&"a"));
    }

    #[test]
    fn without_weight_there_is_no_share() {
        assert_eq!(Split::new([("a", 0)]).pick(|| 1), None);
        assert_eq!(Split::<u8>::default().pick(|| 0), None);
    }

    #[test]
    fn where_there_is_no_choice_no_dice_are_thrown() {
        let split = Split::new([("a", 1)]);
        assert_eq!(split.pick(|| panic!("thrown")), Some(&"a"));
    }
}

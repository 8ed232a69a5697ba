//! Tables of consistent hashing, and whom they were made of.

use super::maglev::Maglev;
use super::ring::Ring;
use crate::state::traffic_policy::balancing::Algorithm;

/// A table over members that are numbered in the order of their identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Identity and weight of each member.
    members: Vec<(u64, u32)>,
    places: Places,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Places {
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    /// Builds the table of an algorithm; none for one that does not hash. `members` are identities and weights in
    /// ascending order, so that every node builds the same.
    #[must_use]
    pub fn build(algorithm: Algorithm, members: Vec<(u64, u32)>) -> Option<Self> {
        let places = match algorithm {
            Algorithm::RingHash => Places::Ring(Ring::build(&members)),
            Algorithm::Maglev => Places::Maglev(Maglev::build(&members)),
            Algorithm::RoundRobin
            | Algorithm::WeightedRoundRobin
            | Algorithm::Random
            | Algorithm::LeastRequest
            | Algorithm::PeakEwma => return None,
        };
        Some(Self { members, places })
    }

    /// Whether it is the table of this algorithm and these members.
    #[must_use]
    pub fn is_of(&self, algorithm: Algorithm, members: &[(u64, u32)]) -> bool {
        let is_alike = match self.places {
            Places::Ring(_) => algorithm == Algorithm::RingHash,
            Places::Maglev(_) => algorithm == Algorithm::Maglev,
        };
        is_alike && self.members == members
    }

    /// The first member from the place of `key` on for which `is_wanted` holds, within `steps`.
    pub fn find(&self, key: u64, steps: usize, is_wanted: impl Fn(u32) -> bool) -> Option<u32> {
        match &self.places {
            Places::Ring(ring) => ring.walk(key).take(steps).find(|it| is_wanted(*it)),
            Places::Maglev(maglev) => maglev.walk(key).take(steps).find(|it| is_wanted(*it)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::hash;
    use super::*;

    const KEYS: u64 = 20_000;

    fn identities(weights: &[u32]) -> Vec<(u64, u32)> {
        (1..).map(hash::mix).zip(weights.iter().copied()).collect()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..KEYS).map(|key| hash::of(&key.to_le_bytes()))
    }

    fn home(table: &Table, key: u64) -> u32 {
        table.find(key, 1, |_| true).unwrap()
    }

    /// The share of all keys that each member has.
    pub(in super::super) fn shares(algorithm: Algorithm, weights: &[u32]) -> Vec<f64> {
        let table = Table::build(algorithm, identities(weights)).unwrap();
        let mut counts = vec![0_u32; weights.len()];
        for key in keys() {
            counts[home(&table, key) as usize] += 1;
        }
        let all = f64::from(u32::try_from(KEYS).unwrap());
        counts.into_iter().map(|it| f64::from(it) / all).collect()
    }

    /// The share of keys that move when the last of some members goes; and of those that it did not have.
    pub(in super::super) fn moved(algorithm: Algorithm, members: u32) -> (f64, f64) {
        let all = identities(&vec![1; members as usize]);
        let without = all[..all.len() - 1].to_vec();
        let [before, after] = [all, without].map(|it| Table::build(algorithm, it).unwrap());
        let (mut moved, mut strayed) = (0_u32, 0_u32);
        for key in keys() {
            let (old, new) = (home(&before, key), home(&after, key));
            moved += u32::from(old != new);
            strayed += u32::from(old != new && old != members - 1);
        }
        let all = f64::from(u32::try_from(KEYS).unwrap());
        (f64::from(moved) / all, f64::from(strayed) / all)
    }

    #[test]
    fn a_table_knows_what_it_is_made_of() {
        let members = identities(&[1, 2]);
        let table = Table::build(Algorithm::Maglev, members.clone()).unwrap();
        assert!(table.is_of(Algorithm::Maglev, &members));
        assert!(!table.is_of(Algorithm::RingHash, &members));
        assert!(!table.is_of(Algorithm::Maglev, &members[..1]));
        assert!(Table::build(Algorithm::Random, members).is_none());
    }

    #[test]
    fn the_next_in_the_table_takes_the_keys_of_one_that_is_out() {
        let members = identities(&[1; 5]);
        for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
            let table = Table::build(algorithm, members.clone()).unwrap();
            let mut heirs = [0_u32; 5];
            for key in keys() {
                let home = home(&table, key);
                let without = table.find(key, 256, |it| it != 2).unwrap();
                if home == 2 {
                    heirs[without as usize] += 1;
                } else {
                    assert_eq!(home, without);
                }
            }
            assert!(heirs.iter().filter(|it| **it > 400).count() == 4);
        }
    }
}

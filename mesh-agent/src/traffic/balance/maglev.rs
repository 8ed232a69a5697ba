//! Maglev's table (Eisenbud et al., "Maglev: a fast and reliable software network load balancer", NSDI 2016, section
//! 3.4), with weights: members fill slots in turn, each by its own permutation of all slots.

use super::hash;

/// Slots of a table; prime, and a hundred times as many as there should be members: the paper's small size.
pub const SLOTS: usize = 65_537;

/// Most members of a table; those beyond get nothing.
const MAX_MEMBERS: usize = u16::MAX as usize;

/// Nobody yet.
const EMPTY: u16 = u16::MAX;

/// A table over members that are numbered from zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maglev {
    slots: Vec<u16>,
}

/// How far a member is with its permutation.
struct Permutation {
    member: u16,
    next: usize,
    step: usize,
    weight: u64,
    credit: u64,
}

impl Permutation {
    fn new(member: u16, identity: u64, weight: u32) -> Self {
        let bytes = identity.to_le_bytes();
        let slots = SLOTS as u64;
        let number = |seed, limit| {
            usize::try_from(hash::scale(hash::seeded(seed, &bytes), limit)).unwrap_or(0)
        };
        Self {
            member,
            next: number(0, slots),
            step: 1 + number(1, slots - 1),
            weight: u64::from(weight),
            credit: 0,
        }
    }

    /// Takes the next slot of its permutation that is free. There is one.
    fn take(&mut self, slots: &mut [u16]) {
        loop {
            let index = self.next;
            self.next = (self.next + self.step) % SLOTS;
            match slots.get_mut(index) {
                Some(slot) if *slot == EMPTY => {
                    *slot = self.member;
                    return;
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

impl Maglev {
    /// Builds the table of members with these identities and weights. A weight of zero gets nothing.
    #[must_use]
    pub fn build(members: &[(u64, u32)]) -> Self {
        let mut permutations: Vec<Permutation> = (0..EMPTY)
            .zip(members.iter().take(MAX_MEMBERS))
            .filter(|(_, (_, weight))| *weight > 0)
            .map(|(member, (identity, weight))| Permutation::new(member, *identity, *weight))
            .collect();
        let largest = permutations.iter().map(|it| it.weight).max().unwrap_or(0);
        if largest == 0 {
            return Self::default();
        }
        let mut slots = vec![EMPTY; SLOTS];
        let mut free = SLOTS;
        while free > 0 {
            // A round: the heaviest take a slot, the others save for theirs.
            for permutation in &mut permutations {
                permutation.credit += permutation.weight;
                if permutation.credit >= largest && free > 0 {
                    permutation.credit -= largest;
                    permutation.take(&mut slots);
                    free -= 1;
                }
            }
        }
        Self { slots }
    }

    /// The members from the one that a hash belongs to on, once around; neighbours are as good as random.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = u32> {
        let start = usize::try_from(hash::scale(key, self.slots.len() as u64)).unwrap_or(0);
        let (before, after) = self.slots.split_at_checked(start).unwrap_or_default();
        after.iter().chain(before).map(|member| u32::from(*member))
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{moved, shares};
    use super::*;
    use crate::state::traffic_policy::balancing::Algorithm;

    #[test]
    fn shares_are_almost_equal_and_follow_weights() {
        let members: Vec<(u64, u32)> = (0..10).map(|id| (hash::mix(id), 1)).collect();
        let table = Maglev::build(&members);
        for member in 0..10 {
            let slots = table.slots.iter().filter(|it| **it == member).count();
            assert!((6553..=6554).contains(&slots), "{member}: {slots}");
        }
        for share in shares(Algorithm::Maglev, &[1; 10]) {
            assert!((0.095..0.105).contains(&share), "{share}");
        }
        let weighted = shares(Algorithm::Maglev, &[3, 1, 0]);
        assert!((0.74..0.76).contains(&weighted[0]), "{weighted:?}");
        assert!(weighted[2] == 0.0);
    }

    #[test]
    fn few_keys_move_when_one_goes() {
        for members in [2, 3, 10, 100] {
            let (moved, strayed) = moved(Algorithm::Maglev, members);
            let fair = 1.0 / f64::from(members);
            assert!(moved < fair + 0.06, "{members}: {moved}");
            assert!(strayed < 0.06, "{members}: {strayed}");
        }
    }

    #[test]
    fn a_table_of_nobody_has_nobody() {
        assert_eq!(Maglev::build(&[]).walk(9).next(), None);
        assert_eq!(Maglev::build(&[(1, 0)]).walk(9).next(), None);
        assert_eq!(Maglev::build(&[(1, 7)]).walk(9).next(), Some(0));
    }
}

//! A ring of hashes (Karger et al., "Consistent hashing and random trees", STOC 1997): a key belongs to the first point
//! after its own hash.

use super::hash;

/// Points of the endpoint with the largest weight, if there is room.
const POINTS: u64 = 256;

/// Most points of one ring; beyond, every endpoint has half as many, and so on, but at least one.
const MAX_POINTS: u64 = 32_768;

/// A ring over members that are numbered from zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Hash and member, in the order of the hashes.
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// Builds the ring of members with these identities and weights.
    ///
    /// How many points a member has depends on its weight relative to the largest, not on how many members there are, so
    /// that the points of all others stay where they are when one comes or goes.
    #[must_use]
    pub fn build(members: &[(u64, u32)]) -> Self {
        let largest = members.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
        let mut most = POINTS;
        while most > 1 && total(members, largest, most) > MAX_POINTS {
            most /= 2;
        }
        let mut points = Vec::new();
        for (member, (identity, weight)) in (0_u32..).zip(members) {
            for point in 0..share(*weight, largest, most) {
                points.push((hash::seeded(point, &identity.to_le_bytes()), member));
            }
        }
        points.sort_unstable();
        Self { points }
    }

    /// The members from the one that a hash belongs to on, once around; a member comes as often as it has points.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = u32> {
        let start = self.points.partition_point(|(point, _)| *point < key);
        let (before, after) = self.points.split_at_checked(start).unwrap_or_default();
        after.iter().chain(before).map(|(_, member)| *member)
    }
}

fn total(members: &[(u64, u32)], largest: u32, most: u64) -> u64 {
    members
        .iter()
        .map(|(_, weight)| share(*weight, largest, most))
        .sum()
}

/// Points of one member.
fn share(weight: u32, largest: u32, most: u64) -> u64 {
    if weight == 0 {
        return 0;
    }
    (u64::from(weight) * most / u64::from(largest.max(1))).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{moved, shares};
    use super::*;
    use crate::state::traffic_policy::balancing::Algorithm;

    #[test]
    fn shares_follow_weights() {
        for (member, share) in shares(Algorithm::RingHash, &[1; 10])
            .into_iter()
            .enumerate()
        {
            assert!((0.7..1.3).contains(&(share * 10.0)), "{member}: {share}");
        }
        let weighted = shares(Algorithm::RingHash, &[3, 1, 0]);
        assert!((0.65..0.85).contains(&weighted[0]), "{weighted:?}");
        assert!(weighted[2] == 0.0);
    }

    #[test]
    fn only_keys_of_the_one_that_goes_move() {
        for members in [2, 3, 10, 100] {
            let (moved, strayed) = moved(Algorithm::RingHash, members);
            let fair = 1.0 / f64::from(members);
            assert!(moved < 2.0 * fair, "{members}: {moved}");
            assert!(strayed == 0.0, "{members}: {strayed}");
        }
    }

    #[test]
    fn a_walk_meets_everybody_once_around() {
        let ring = Ring::build(&[(1, 1), (2, 1), (3, 1)]);
        let walk: Vec<u32> = ring.walk(u64::MAX).collect();
        assert_eq!(walk.len(), 3 * 256);
        assert!((0..3).all(|member| walk.contains(&member)));
        assert_eq!(Ring::build(&[]).walk(3).next(), None);
    }

    #[test]
    fn a_large_ring_is_bounded_and_has_everybody() {
        let members: Vec<(u64, u32)> = (0..5000).map(|id| (hash::mix(id), 1)).collect();
        let ring = Ring::build(&members);
        assert!(ring.points.len() <= 32_768);
        let mut seen = vec![false; members.len()];
        for member in ring.walk(0) {
            seen[member as usize] = true;
        }
        assert!(seen.into_iter().all(|it| it));
    }
}

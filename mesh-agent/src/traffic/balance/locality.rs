//! How near an endpoint is, and how much of the traffic each distance takes.

use super::hash::scale;
use crate::state::endpoint::Locality;
use crate::state::traffic_policy::balancing::LocalityLevel;

/// Distances that are told apart: node, zone, region, and all else.
pub const DISTANCES: usize = 4;

/// Whether two places are the same at a level.
///
/// A level that one of them does not name is not the same. Levels above must not contradict: `a` in one region is not
/// `a` in another.
#[must_use]
pub fn is_same(level: LocalityLevel, one: &Locality, other: &Locality) -> bool {
    let both =
        |pick: fn(&Locality) -> &Option<String>| pick(one).as_ref().zip(pick(other).as_ref());
    let region = both(|it| &it.region).map(|(one, other)| one == other);
    let zone = both(|it| &it.zone).map(|(one, other)| one == other);
    let node = both(|it| &it.node).map(|(one, other)| one == other);
    let (is_it, above) = match level {
        LocalityLevel::Node => (node, [zone, region]),
        LocalityLevel::Zone => (zone, [region, None]),
        LocalityLevel::Region => (region, [None, None]),
    };
    is_it == Some(true) && above.iter().all(|it| *it != Some(false))
}

/// How well a distance is: weights of its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Of those that are well.
    pub well: u64,
    /// Of all.
    pub total: u64,
}

/// Parts of all traffic; shares are counted in these.
const WHOLE: u64 = 10_000;

/// Which distance takes a request: near ones as much as they can bear, the rest goes on to the next. `number` is any
/// number, spread evenly over the whole range; equal numbers give equal answers as long as nothing changes.
///
/// As Envoy's priority levels: a distance bears all its traffic while `min_well_percent` of its weight is well, and
/// proportionally less below; if all together cannot bear the whole, each takes in proportion to what it can.
#[must_use]
pub fn choose(capacities: &[Capacity], min_well_percent: u32, number: u64) -> Option<usize> {
    let mut left = scale(number, borne(capacities, min_well_percent).min(WHOLE));
    capacities.iter().position(|capacity| {
        let share = capacity.bears(min_well_percent);
        let is_it = left < share;
        left = left.saturating_sub(share);
        is_it
    })
}

/// Whether all distances together can bear the whole traffic.
#[must_use]
pub fn is_enough(capacities: &[Capacity], min_well_percent: u32) -> bool {
    borne(capacities, min_well_percent) >= WHOLE
}

/// How much of the traffic all distances can bear together; more than [`WHOLE`] if there is room.
fn borne(capacities: &[Capacity], min_well_percent: u32) -> u64 {
    let shares = capacities.iter().map(|it| it.bears(min_well_percent));
    shares.sum()
}

impl Capacity {
    /// How much of the traffic a distance can bear.
    fn bears(&self, min_well_percent: u32) -> u64 {
        let needed = self.total * u64::from(min_well_percent.clamp(1, 100));
        (self.well * 100 * WHOLE)
            .checked_div(needed)
            .unwrap_or(0)
            .min(WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(region: &str, zone: &str, node: &str) -> Locality {
        let name = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Locality {
            region: name(region),
            zone: name(zone),
            node: name(node),
        }
    }

    #[test]
    fn places_are_compared_level_by_level() {
        use LocalityLevel::{Node, Region, Zone};
        let here = place("eu", "a", "n1");
        for (other, node, zone, region) in [
            (place("eu", "a", "n1"), true, true, true),
            (place("", "", "n1"), true, false, false),
            (place("", "a", "n2"), false, true, false),
            (place("eu", "b", "n1"), false, false, true),
            (place("us", "a", "n1"), false, false, false),
            (place("", "", ""), false, false, false),
        ] {
            let same = [Node, Zone, Region].map(|level| is_same(level, &here, &other));
            assert_eq!(same, [node, zone, region], "{other:?}");
        }
        assert!(!is_same(Node, &Locality::default(), &Locality::default()));
    }

    /// Shares of distances in percent.
    fn shares(capacities: &[(u64, u64)], min_well_percent: u32) -> Vec<u64> {
        let capacities: Vec<Capacity> = capacities
            .iter()
            .map(|(well, total)| Capacity {
                well: *well,
                total: *total,
            })
            .collect();
        let mut counts = vec![0; capacities.len()];
        for step in 0..10_000_u64 {
            let number = step * (u64::MAX / 10_000) + 1;
            if let Some(chosen) = choose(&capacities, min_well_percent, number) {
                counts[chosen] += 1;
            }
        }
        counts.into_iter().map(|it| (it + 50) / 100).collect()
    }

    #[test]
    fn near_ones_take_all_that_they_can_bear() {
        assert_eq!(shares(&[(3, 3), (9, 9)], 71), [100, 0]);
        assert_eq!(shares(&[(3, 4), (9, 9)], 71), [100, 0]);
        assert_eq!(shares(&[(1, 2), (9, 9)], 71), [70, 30]);
        assert_eq!(shares(&[(1, 2), (9, 9)], 100), [50, 50]);
        assert_eq!(shares(&[(0, 2), (1, 4), (9, 9)], 50), [0, 50, 50]);
    }

    #[test]
    fn if_all_together_cannot_bear_it_each_takes_its_part() {
        assert_eq!(shares(&[(1, 10), (3, 10)], 100), [25, 75]);
        assert_eq!(shares(&[(0, 10), (0, 10)], 100), [0, 0]);
        assert_eq!(shares(&[(0, 0), (1, 10)], 100), [0, 100]);
    }
}

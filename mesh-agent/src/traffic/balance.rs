//! Which endpoint of a service takes the next connection or request.
//!
//! Endpoints are numbered from zero. Weights are in the slots: an endpoint of weight 3 fills three times as many as
//! one of weight 1, interleaved, so that taking slots in order is smooth.

pub mod hash;
pub mod key;
pub mod latency;
pub mod locality;
pub mod maglev;
pub mod plan;
pub mod pool;
pub mod ring;
pub mod slow_start;
pub mod streams;
pub mod table;
pub mod tier;

/// Most slots of one list; weights are scaled so that they fit, and every endpoint that has a weight keeps one.
pub const MAX_SLOTS: usize = 4096;

/// Lays out endpoints with these weights in slots. A weight of zero gets none.
#[must_use]
pub fn slots(weights: &[u32]) -> Vec<u32> {
    let shares = shares(weights);
    let total: i64 = shares.iter().sum();
    let mut credits = vec![0_i64; shares.len()];
    let mut slots = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    if shares.iter().all(|share| *share <= 1) {
        slots.extend(
            (0_u32..)
                .zip(&shares)
                .filter(|(_, share)| **share > 0)
                .map(|(index, _)| index),
        );
        return slots;
    }
    // Each round every endpoint earns its share, and the richest pays the whole round for one slot.
    for _ in 0..total {
        let mut richest: Option<(u32, i64)> = None;
        for ((index, credit), share) in (0_u32..).zip(&mut credits).zip(&shares) {
            *credit += share;
            if *share > 0 && richest.is_none_or(|(_, most)| *credit > most) {
                richest = Some((index, *credit));
            }
        }
        let Some((index, _)) = richest else { break };
        if let Some(credit) = usize::try_from(index)
            .ok()
            .and_then(|index| credits.get_mut(index))
        {
            *credit -= total;
        }
        slots.push(index);
    }
    slots
}

/// Weights in lowest terms, scaled to fit.
fn shares(weights: &[u32]) -> Vec<i64> {
    let divisor = weights
        .iter()
        .copied()
        .fold(0, greatest_common_divisor)
        .max(1);
    let total: u64 = weights
        .iter()
        .map(|weight| u64::from(weight / divisor))
        .sum();
    let room = u64::try_from(MAX_SLOTS).unwrap_or(u64::MAX);
    weights
        .iter()
        .map(|weight| {
            let share = u64::from(weight / divisor);
            let scaled = if total > room && share > 0 {
                (share * room / total).max(1)
            } else {
                share
            };
            i64::try_from(scaled).unwrap_or(i64::MAX)
        })
        .collect()
}

const fn greatest_common_divisor(left: u32, right: u32) -> u32 {
    let (mut left, mut right) = (left, right);
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::{MAX_SLOTS, slots};

    #[test]
    fn slots_interleave_by_weight() {
        assert_eq!(slots(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(slots(&[10, 10]), [0, 1]);
        assert_eq!(slots(&[2, 1, 0]), [0, 1, 0]);
        assert_eq!(slots(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert!(slots(&[0, 0]).is_empty() && slots(&[]).is_empty());
    }

    #[test]
    fn many_weights_are_scaled_and_nobody_is_lost() {
        let weights: Vec<u32> = (1..=1000).collect();
        let slots = slots(&weights);
        assert!(slots.len() <= MAX_SLOTS + weights.len());
        for index in 0..1000 {
            assert!(slots.contains(&index));
        }
    }
}

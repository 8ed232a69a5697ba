//! Which endpoint of a service takes the next connection or request.
//!
//! Endpoints are numbered from zero. Weights are in the slots: an endpoint of weight 3 fills three times as many as
//! one of weight 1, interleaved, so that taking slots in order is smooth.

use crate::state::service::Balancing;

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

/// What a choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Whose turn it is, for round robin.
    pub turn: u32,
    /// Two random numbers.
    pub random: [u32; 2],
}

/// Picks a slot's endpoint for which `is_usable` holds. `load` tells what an endpoint has to do, and its weight.
pub fn pick(
    slots: &[u32],
    balancing: Balancing,
    draw: Draw,
    is_usable: impl Fn(u32) -> bool,
    load: impl Fn(u32) -> (usize, u32),
) -> Option<u32> {
    let from = |start: u32| first_usable(slots, start, &is_usable);
    match balancing {
        Balancing::RoundRobin => from(draw.turn),
        Balancing::Random => from(draw.random[0]),
        Balancing::LeastRequest => {
            let one = from(draw.random[0])?;
            let two = from(draw.random[1])?;
            let ((one_load, one_weight), (two_load, two_weight)) = (load(one), load(two));
            // Requests per weight, this one included, without dividing.
            let one_cost = (one_load as u64 + 1) * u64::from(two_weight.max(1));
            let two_cost = (two_load as u64 + 1) * u64::from(one_weight.max(1));
            Some(if two_cost < one_cost { two } else { one })
        }
    }
}

/// The first endpoint that may be used, from slot `start` (modulo their number) on.
fn first_usable(slots: &[u32], start: u32, is_usable: &impl Fn(u32) -> bool) -> Option<u32> {
    let start = usize::try_from(start).ok()?.checked_rem(slots.len())?;
    let (before, after) = slots.split_at_checked(start)?;
    after
        .iter()
        .chain(before)
        .copied()
        .find(|index| is_usable(*index))
}

#[cfg(test)]
mod tests {
    use super::{Draw, MAX_SLOTS, pick, slots};
    use crate::state::service::Balancing;

    const fn draw(turn: u32, random: [u32; 2]) -> Draw {
        Draw { turn, random }
    }

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

    #[test]
    fn round_robin_takes_turns_and_steps_over_the_unusable() {
        let slots = slots(&[1, 1, 1]);
        let picked: Vec<_> = (0..6)
            .map(|turn| {
                pick(
                    &slots,
                    Balancing::RoundRobin,
                    draw(turn, [0; 2]),
                    |index| index != 1,
                    |_| (0, 1),
                )
            })
            .collect();
        assert_eq!(
            picked,
            [Some(0), Some(2), Some(2), Some(0), Some(2), Some(2)]
        );
        assert_eq!(
            pick(
                &slots,
                Balancing::RoundRobin,
                draw(0, [0; 2]),
                |_| false,
                |_| (0, 1)
            ),
            None
        );
        assert_eq!(
            pick(
                &[],
                Balancing::Random,
                draw(0, [0; 2]),
                |_| true,
                |_| (0, 1)
            ),
            None
        );
    }

    #[test]
    fn least_request_takes_the_one_with_less_to_do_per_weight() {
        let slots = [0, 1];
        let least = |loads: [(usize, u32); 2]| {
            pick(
                &slots,
                Balancing::LeastRequest,
                draw(0, [0, 1]),
                |_| true,
                |index| loads[index as usize],
            )
        };
        assert_eq!(least([(3, 1), (2, 1)]), Some(1));
        assert_eq!(least([(2, 1), (3, 1)]), Some(0));
        assert_eq!(least([(5, 3), (2, 1)]), Some(0));
    }
}

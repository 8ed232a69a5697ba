//! Endpoints at one distance, and how one of them is picked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::hash::{Dice, scale};
use super::latency::Latency;
use super::slots;
use super::slow_start::FULL;
use super::table::Table;
use crate::state::traffic_policy::balancing::Algorithm;

/// Draws before one is searched for in order: half of all endpoints may be out, and still most picks are at random.
const DRAWS: u32 = 8;

/// Places of a table that are looked at before one is searched for in order.
const STEPS: usize = 256;

/// What a choice asks about endpoints, by their index in the list of the service port.
pub trait Fleet {
    /// Whether it may take this request at all, however it is: it has not failed for this request before.
    fn is_open(&self, index: u32) -> bool;
    /// Whether it is well, as checks and traffic show.
    fn is_well(&self, index: u32) -> bool;
    /// Its weight.
    fn weight(&self, index: u32) -> u32;
    /// Requests and connections under way.
    fn active(&self, index: u32) -> u32;
    /// How slow it is.
    fn latency(&self, index: u32) -> Option<&Latency>;
    /// How much of its share it gets yet, in parts of [`FULL`].
    fn grown(&self, index: u32) -> u32;
}

/// What one choice depends on, besides the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Hash of what the policy names, if the request has it.
    pub hash: Option<u64>,
    /// Random numbers.
    pub dice: Dice,
    /// The time on the monotonic clock.
    pub now_ns: u64,
}

/// An endpoint that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its index in the list of the service port.
    pub index: u32,
    /// Its weight, above zero.
    pub weight: u32,
    /// What it is known by on all nodes, as [`super::hash::identity`] has it.
    pub identity: u64,
    /// How far away it is, from 0 to [`super::locality::DISTANCES`] - 1.
    pub distance: usize,
}

/// Endpoints at one distance.
#[derive(Debug)]
pub struct Tier {
    distance: usize,
    members: Vec<Member>,
    /// Weight of all.
    total: u64,
    /// Indexes by weight, interleaved.
    slots: Vec<u32>,
    /// For consistent hashing: the table, and the index of each of its members.
    table: Option<(Arc<Table>, Vec<u32>)>,
    turn: AtomicU32,
    /// Weight of those that were well when somebody looked last.
    well: AtomicU64,
}

impl Tier {
    /// Lays out endpoints for an algorithm. `old` are tables that may still fit; `turn` is whose turn it is.
    #[must_use]
    pub fn new(algorithm: Algorithm, members: Vec<Member>, old: &[Arc<Table>], turn: u32) -> Self {
        let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
        let slots = slots(&weights)
            .into_iter()
            .filter_map(|slot| members.get(usize::try_from(slot).ok()?))
            .map(|member| member.index)
            .collect();
        let total = weights.iter().map(|weight| u64::from(*weight)).sum();
        Self {
            distance: members.first().map_or(0, |member| member.distance),
            table: table(algorithm, &members, old),
            members,
            total,
            slots,
            turn: AtomicU32::new(turn),
            // Until somebody has looked.
            well: AtomicU64::new(total),
        }
    }

    /// How far away it is.
    #[must_use]
    pub const fn distance(&self) -> usize {
        self.distance
    }

    /// Its endpoints.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Weight of all endpoints.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Weight of those that were well when somebody looked last.
    #[must_use]
    pub fn well(&self) -> u64 {
        self.well.load(Ordering::Relaxed)
    }

    /// The table, if there is one.
    #[must_use]
    pub fn table(&self) -> Option<&Arc<Table>> {
        self.table.as_ref().map(|(table, _)| table)
    }

    /// Whose turn it is.
    #[must_use]
    pub fn turn(&self) -> u32 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Looks how many are well.
    pub(super) fn look(&self, fleet: &impl Fleet) {
        let well = self
            .members
            .iter()
            .filter(|member| fleet.is_well(member.index))
            .map(|member| u64::from(member.weight))
            .sum();
        self.well.store(well, Ordering::Relaxed);
    }

    /// Picks an endpoint for which `is_usable` holds.
    pub(super) fn pick<F: Fleet>(
        &self,
        algorithm: Algorithm,
        ask: &mut Ask,
        fleet: &F,
        is_usable: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        if let (Some((table, indexes)), Some(hash)) = (&self.table, ask.hash) {
            let index = |member: u32| indexes.get(usize::try_from(member).ok()?).copied();
            let is_wanted = |member| index(member).is_some_and(&is_usable);
            return table
                .find(hash, STEPS, is_wanted)
                .and_then(index)
                .or_else(|| self.search(hash, &is_usable));
        }
        let count = self.slots.len() as u64;
        let any = |dice: &mut Dice| dice.below(count);
        match algorithm {
            Algorithm::RoundRobin | Algorithm::WeightedRoundRobin => {
                let turn = |_: &mut Dice| {
                    let turn = u64::from(self.turn.fetch_add(1, Ordering::Relaxed));
                    turn.checked_rem(count).unwrap_or(0)
                };
                self.draw(turn, &mut ask.dice, fleet, &is_usable)
            }
            Algorithm::Random | Algorithm::RingHash | Algorithm::Maglev => {
                self.draw(any, &mut ask.dice, fleet, &is_usable)
            }
            Algorithm::LeastRequest | Algorithm::PeakEwma => {
                let one = self.draw(any, &mut ask.dice, fleet, &is_usable)?;
                if self.members.len() == 1 {
                    return Some(one);
                }
                let is_other = |index| index != one && is_usable(index);
                let Some(two) = self.draw(any, &mut ask.dice, fleet, &is_other) else {
                    return Some(one);
                };
                // One that grows is drawn second as often as the others: it must be the better one also with this
                // request, for it has nothing to do more often than they.
                let more = u32::from(fleet.grown(two) < FULL);
                let is_better = match algorithm {
                    Algorithm::PeakEwma => {
                        let cost = |index| self.cost(index, fleet, more, ask.now_ns);
                        cost(two) < cost(one)
                    }
                    _ => is_less_busy(two, one, fleet, more),
                };
                Some(if is_better { two } else { one })
            }
        }
    }

    /// Draws until one may be used. One that has not grown to its full share is passed over as often as it lacks, while
    /// there are others.
    fn draw<F: Fleet>(
        &self,
        next: impl Fn(&mut Dice) -> u64,
        dice: &mut Dice,
        fleet: &F,
        is_usable: &impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut small = None;
        for _ in 0..DRAWS {
            let slot = usize::try_from(next(dice)).ok()?;
            let index = *self.slots.get(slot)?;
            if !is_usable(index) {
                continue;
            }
            let grown = fleet.grown(index);
            if grown >= FULL || dice.below(u64::from(FULL)) < u64::from(grown) {
                return Some(index);
            }
            small = Some(index);
        }
        small.or_else(|| self.search(dice.roll(), is_usable))
    }

    /// The first endpoint that may be used, from a place that `number` stands for.
    fn search(&self, number: u64, is_usable: &impl Fn(u32) -> bool) -> Option<u32> {
        let start = usize::try_from(scale(number, self.members.len() as u64)).ok()?;
        let (before, after) = self.members.split_at_checked(start)?;
        after
            .iter()
            .chain(before)
            .map(|member| member.index)
            .find(|index| is_usable(*index))
    }

    /// What one more request would cost by latency, with `more` requests under way than there are.
    fn cost<F: Fleet>(&self, index: u32, fleet: &F, more: u32, now_ns: u64) -> f64 {
        let mean = float(self.total) / float(self.members.len() as u64);
        let weight = f64::from(fleet.weight(index)) * f64::from(fleet.grown(index));
        let share = weight / (mean * f64::from(FULL)).max(f64::MIN_POSITIVE);
        fleet.latency(index).map_or(0.0, |latency| {
            let active = fleet.active(index).saturating_add(more);
            latency.cost(active, share, now_ns)
        })
    }
}

/// Whether one has fewer requests per weight than the other, with `more` than there are at each; what has not grown yet
/// has a part of its weight. Who was drawn first keeps a tie: draws go by weight, so do the shares of endpoints that
/// have nothing to do.
fn is_less_busy<F: Fleet>(one: u32, other: u32, fleet: &F, more: u32) -> bool {
    let active = |index| u128::from(fleet.active(index)) + u128::from(more);
    let weight = |index| u128::from(fleet.weight(index)) * u128::from(fleet.grown(index));
    active(one) * weight(other) < active(other) * weight(one)
}

/// The table of an algorithm, and the index of each of its members.
fn table(
    algorithm: Algorithm,
    members: &[Member],
    old: &[Arc<Table>],
) -> Option<(Arc<Table>, Vec<u32>)> {
    if !matches!(algorithm, Algorithm::RingHash | Algorithm::Maglev) {
        return None;
    }
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_unstable_by_key(|member| (member.identity, member.index));
    let indexes = sorted.iter().map(|member| member.index).collect();
    let weights: Vec<(u64, u32)> = sorted
        .iter()
        .map(|member| (member.identity, member.weight))
        .collect();
    let kept = old.iter().find(|table| table.is_of(algorithm, &weights));
    let table = match kept {
        Some(table) => Arc::clone(table),
        None => Arc::new(Table::build(algorithm, weights)?),
    };
    Some((table, indexes))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "weights are compared, not counted"
)]
const fn float(number: u64) -> f64 {
    number as f64
}

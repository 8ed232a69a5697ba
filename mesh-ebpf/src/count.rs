//! Counters and events.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA};
use mesh_common::event::{Event, Kind};
use mesh_common::stats::{Counter, StatKey};
use mesh_common::verdict::Reason;

use crate::maps::{EVENTS, EVENTS_BYTES, STATS};

/// Adds one.
#[inline(always)]
pub(crate) fn bump(subject: u32, counter: Counter, reason: Reason) {
    add(subject, counter as u16, reason as u16, 1);
}

/// Adds `amount`, or counts a loss where there is no room for a new counter. A program may be preempted by another on its
/// CPU, hence the atomic addition.
#[inline(never)]
pub(crate) fn add(subject: u32, counter: u16, reason: u16, amount: u64) {
    let key = StatKey {
        subject,
        counter,
        reason,
    };
    let value = STATS.get_ptr_mut(key).or_else(|| {
        // Another CPU may be faster; what counts is the look-up that follows.
        let _raced = STATS.insert(key, 0, u64::from(BPF_NOEXIST));
        STATS.get_ptr_mut(key)
    });
    match value {
        Some(value) => add_to(value, amount),
        None => {
            if let Some(lost) = STATS.get_ptr_mut(StatKey::LOST) {
                add_to(lost, 1);
            }
        }
    }
}

/// Adds `amount` to a value in a map.
///
/// An intrinsic, because the target claims no atomic types. What was there cannot be had: that instruction belongs to
/// a newer set than the linker is told to use.
#[inline(always)]
pub(crate) fn add_to(value: *mut u64, amount: u64) {
    // SAFETY: `value` comes from a map look-up: aligned, and valid until the program ends.
    let _previous = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(value, amount) };
}

/// Sends a record to the agent, or counts that it was lost. Anybody may cause refusals as often as they like: half of the
/// room is for what is final.
#[inline(never)]
pub(crate) fn emit(event: &Event) {
    let is_crowded_out = event.kind != Kind::Closed as u8
        && EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) > u64::from(EVENTS_BYTES) / 2;
    if is_crowded_out || EVENTS.output::<Event>(event, 0).is_err() {
        bump(event.workload, Counter::EventLost, Reason::None);
    }
}

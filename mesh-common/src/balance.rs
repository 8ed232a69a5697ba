//! How the kernel picks an endpoint of a direct service.

use crate::endpoint::{Endpoint, State};
use crate::service::{Service, SlotKey};
use crate::verdict::Tables;

/// How an endpoint is picked. Weights are in the slots: an endpoint of weight 3 fills three times as
/// many slots as one of weight 1, interleaved, so that taking slots in order is smooth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Balancing {
    /// Slots in order.
    RoundRobin = 1,
    /// Any slot.
    Random = 2,
    /// Of two random slots the endpoint with fewer open connections per weight (power of two choices).
    LeastRequest = 3,
}

/// How many slots are tried before the service counts as having no endpoint that takes connections.
const TRIES: u32 = 8;

/// Picks an endpoint of `service` for a socket of `family` (4 or 6): its number and value. `current` is the number of
/// the one that the socket has already, or zero.
#[inline(always)]
pub fn pick<T: Tables>(
    tables: &T,
    service: &Service,
    family: u32,
    current: u32,
) -> Option<(u32, Endpoint)> {
    if current != 0
        && let Some(endpoint) = tables.endpoint(current)
        && serves(&endpoint, service, family)
    {
        return Some((current, endpoint));
    }
    let slots = if family == 4 {
        service.slots_v4
    } else {
        service.slots_v6
    };
    if slots == 0 {
        return None;
    }
    let first = if service.balancing == Balancing::RoundRobin as u8 {
        tables.next(service.port_id)
    } else {
        tables.random()
    };
    let mut key = SlotKey {
        port_id: service.port_id,
        generation: service.generation,
        family,
        slot: 0,
    };
    let picked = first_ready(tables, &mut key, first, slots)?;
    if service.balancing != Balancing::LeastRequest as u8 || slots == 1 {
        return Some(picked);
    }
    match first_ready(tables, &mut key, tables.random(), slots) {
        Some(other) if is_less_loaded(tables, &other, &picked) => Some(other),
        _ => Some(picked),
    }
}

/// Whether an endpoint still serves those who have it: a draining one does.
#[inline(always)]
fn serves(endpoint: &Endpoint, service: &Service, family: u32) -> bool {
    endpoint.port_id == service.port_id
        && endpoint.state != State::Failed as u8
        && endpoint.address.is_v4() == (family == 4)
}

/// The first endpoint that takes connections, from slot `first` (modulo `slots`) on.
#[inline(always)]
fn first_ready<T: Tables>(
    tables: &T,
    key: &mut SlotKey,
    first: u32,
    slots: u32,
) -> Option<(u32, Endpoint)> {
    let mut offset = 0;
    while offset < TRIES {
        key.slot = first.wrapping_add(offset) % slots;
        if let Some(id) = tables.slot(key)
            && let Some(endpoint) = tables.endpoint(id)
            && endpoint.state == State::Ready as u8
        {
            return Some((id, endpoint));
        }
        offset += 1;
    }
    None
}

/// Whether `left` has fewer open connections per weight than `right`.
#[inline(always)]
fn is_less_loaded<T: Tables>(tables: &T, left: &(u32, Endpoint), right: &(u32, Endpoint)) -> bool {
    let left_open = tables.open_connections(left.0);
    let right_open = tables.open_connections(right.0);
    left_open * u64::from(right.1.weight) < right_open * u64::from(left.1.weight)
}

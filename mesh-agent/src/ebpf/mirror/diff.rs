//! The writes between what the kernel's maps hold and what they should hold, in an order that is safe to read at every
//! step. Pure.
//!
//! 1. Slots that no service reads: left over from a write that failed or an agent that was killed.
//! 2. Policies, so that what follows is never open for a moment.
//! 3. Endpoints, before the slots that name them, before the services that read the slots.
//! 4. Identities and exits; then workloads and cgroups: whoever is enrolled finds everything in place.
//! 5. What goes: services, then (once no hook runs that may have read them) slots, endpoints and policies; identities,
//!    then workloads and cgroups, and their exits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_common::endpoint::{Endpoint, State};
use mesh_common::service::{Service, ServiceKey, SlotKey};

use super::desired::{Desired, Slots};
use super::{Held, Write};

#[cfg(test)]
pub(super) mod tests;

/// The writes that make `held` into `desired`.
#[must_use]
pub fn diff(held: &Held, desired: &Desired) -> Vec<Write> {
    let services = services(held, desired);
    let mut writes = Vec::new();
    let live = live_generations(&held.services);
    remove_slots(
        held,
        |key| live.contains(&(key.port_id, key.generation)),
        &mut writes,
    );
    put_changed(
        &held.policies,
        &desired.policies,
        &mut writes,
        |key, policy| Write::PutPolicy(*key, Arc::clone(policy)),
    );
    let late_endpoints = put_endpoints(held, desired, &mut writes);
    put_slots(held, desired, &services, &mut writes);
    put_changed(&held.services, &services, &mut writes, |key, service| {
        Write::PutService(*key, *service)
    });
    put_changed(
        &held.identities,
        &desired.identities,
        &mut writes,
        |key, value| Write::PutIdentity(*key, *value),
    );
    let exits = desired.exits.difference(&held.exits);
    writes.extend(exits.map(|key| Write::PutExit(*key)));
    put_changed(
        &held.workloads,
        &desired.workloads,
        &mut writes,
        |key, value| Write::PutWorkload(*key, *value),
    );
    put_changed(
        &held.cgroups,
        &desired.cgroups,
        &mut writes,
        |key, value| Write::PutCgroup(*key, *value),
    );
    remove_gone(&held.services, &services, &mut writes, |key| {
        Write::RemoveService(*key)
    });
    remove(
        held,
        desired,
        &live_generations(&services),
        late_endpoints,
        &mut writes,
    );
    writes
}

/// What goes, once no service reads it; `late` first.
fn remove(
    held: &Held,
    desired: &Desired,
    kept: &BTreeSet<(u32, u32)>,
    mut late: Vec<Write>,
    writes: &mut Vec<Write>,
) {
    let live = live_generations(&held.services);
    remove_slots(
        held,
        |key| {
            let generation = (key.port_id, key.generation);
            kept.contains(&generation) || !live.contains(&generation)
        },
        &mut late,
    );
    remove_gone(&held.endpoints, &desired.endpoints, &mut late, |id| {
        Write::RemoveEndpoint(*id)
    });
    let open = held
        .open
        .iter()
        .filter(|id| !desired.endpoints.contains_key(id));
    late.extend(open.map(|id| Write::RemoveOpen(*id)));
    let cursors = held
        .cursors
        .iter()
        .filter(|id| !desired.slots.contains_key(id));
    late.extend(cursors.map(|id| Write::RemoveCursor(*id)));
    if !late.is_empty() {
        writes.push(Write::WaitForReaders);
        writes.extend(late);
    }
    remove_gone(&held.policies, &desired.policies, writes, |key| {
        Write::RemovePolicy(*key)
    });
    remove_gone(&held.identities, &desired.identities, writes, |key| {
        Write::RemoveIdentity(*key)
    });
    remove_gone(&held.workloads, &desired.workloads, writes, |key| {
        Write::RemoveWorkload(*key)
    });
    remove_gone(&held.cgroups, &desired.cgroups, writes, |key| {
        Write::RemoveCgroup(*key)
    });
    let exits = held.exits.difference(&desired.exits);
    writes.extend(exits.map(|key| Write::RemoveExit(*key)));
}

/// The desired services with the generation of their slots: a new one where the slots change.
fn services(held: &Held, desired: &Desired) -> BTreeMap<ServiceKey, Service> {
    let generations = generations(held, desired);
    let none = Slots::default();
    desired
        .services
        .iter()
        .map(|(key, port)| {
            let slots = desired.slots.get(&port.port_id).unwrap_or(&none);
            let service = Service {
                id: port.id,
                port_id: port.port_id,
                generation: generations.get(&port.port_id).copied().unwrap_or_default(),
                slots_v4: count(&slots.v4),
                slots_v6: count(&slots.v6),
                mode: port.mode as u8,
                balancing: port.balancing as u8,
                padding: 0,
            };
            (*key, service)
        })
        .collect()
}

/// The generation in which each port's slots stand, or will.
fn generations(held: &Held, desired: &Desired) -> BTreeMap<u32, u32> {
    let mut in_use: BTreeMap<u32, Service> = BTreeMap::new();
    let mut newest: BTreeMap<u32, u32> = BTreeMap::new();
    for service in held.services.values() {
        let newest = newest.entry(service.port_id).or_default();
        *newest = (*newest).max(service.generation);
        // Of several addresses all read the same generation, but for a switch that was cut short.
        let current = in_use.entry(service.port_id).or_insert(*service);
        if service.generation > current.generation {
            *current = *service;
        }
    }
    for key in held.slots.keys() {
        let newest = newest.entry(key.port_id).or_default();
        *newest = (*newest).max(key.generation);
    }
    desired
        .slots
        .iter()
        .map(|(port_id, slots)| {
            let generation = match in_use.get(port_id) {
                Some(service) if holds(held, service, slots) => service.generation,
                _ => newest
                    .get(port_id)
                    .map_or(1, |newest| newest.wrapping_add(1)),
            };
            (*port_id, generation)
        })
        .collect()
}

/// Whether the slots that `service` reads are `slots`.
fn holds(held: &Held, service: &Service, slots: &Slots) -> bool {
    if service.slots_v4 != count(&slots.v4) || service.slots_v6 != count(&slots.v6) {
        return false;
    }
    numbered(service.port_id, service.generation, slots)
        .all(|(key, id)| held.slots.get(&key) == Some(&id))
}

/// The entries of a port's slots.
fn numbered(
    port_id: u32,
    generation: u32,
    slots: &Slots,
) -> impl Iterator<Item = (SlotKey, u32)> + '_ {
    let of_family = move |family: u32, ids: &[u32]| {
        (0_u32..).zip(ids.to_vec()).map(move |(slot, id)| {
            let key = SlotKey {
                port_id,
                generation,
                family,
                slot,
            };
            (key, id)
        })
    };
    of_family(4, &slots.v4).chain(of_family(6, &slots.v6))
}

/// Puts endpoints and their counts. An endpoint that changes its family is failed first: slots of the old family still
/// name it until the services have switched. The writes that finish that are returned.
fn put_endpoints(held: &Held, desired: &Desired, writes: &mut Vec<Write>) -> Vec<Write> {
    let mut late = Vec::new();
    for (id, endpoint) in &desired.endpoints {
        match held.endpoints.get(id) {
            Some(old) if old == endpoint => {}
            Some(old) if must_fail_first(old, endpoint) => {
                let failed = Endpoint {
                    state: State::Failed as u8,
                    ..*endpoint
                };
                if *old != failed {
                    writes.push(Write::PutEndpoint(*id, failed));
                }
                late.push(Write::PutEndpoint(*id, *endpoint));
            }
            _ => writes.push(Write::PutEndpoint(*id, *endpoint)),
        }
        if !held.open.contains(id) {
            writes.push(Write::PutOpen(*id));
        }
    }
    let cursors = desired.slots.keys().filter(|id| !held.cursors.contains(id));
    writes.extend(cursors.map(|id| Write::PutCursor(*id)));
    late
}

/// Whether slots that are read now may name the endpoint for sockets of the other family; that is so too where an
/// earlier change of family was cut short.
const fn must_fail_first(old: &Endpoint, new: &Endpoint) -> bool {
    old.address.is_v4() != new.address.is_v4() || old.state == State::Failed as u8
}

fn put_slots(
    held: &Held,
    desired: &Desired,
    services: &BTreeMap<ServiceKey, Service>,
    writes: &mut Vec<Write>,
) {
    let wanted: BTreeMap<u32, u32> = services
        .values()
        .map(|service| (service.port_id, service.generation))
        .collect();
    for (port_id, generation) in wanted {
        if let Some(slots) = desired.slots.get(&port_id) {
            let entries = numbered(port_id, generation, slots);
            writes.extend(
                entries
                    .filter(|(key, id)| held.slots.get(key) != Some(id))
                    .map(|(key, id)| Write::PutSlot(key, id)),
            );
        }
    }
}

fn live_generations(services: &BTreeMap<ServiceKey, Service>) -> BTreeSet<(u32, u32)> {
    services
        .values()
        .map(|service| (service.port_id, service.generation))
        .collect()
}

fn remove_slots(held: &Held, keep: impl Fn(&SlotKey) -> bool, writes: &mut Vec<Write>) {
    let gone = held.slots.keys().filter(|key| !keep(key));
    writes.extend(gone.map(|key| Write::RemoveSlot(*key)));
}

fn put_changed<K: Ord, V: PartialEq>(
    held: &BTreeMap<K, V>,
    desired: &BTreeMap<K, V>,
    writes: &mut Vec<Write>,
    put: impl Fn(&K, &V) -> Write,
) {
    let changed = desired
        .iter()
        .filter(|(key, value)| held.get(key) != Some(value));
    writes.extend(changed.map(|(key, value)| put(key, value)));
}

fn remove_gone<K: Ord, V, W>(
    held: &BTreeMap<K, V>,
    desired: &BTreeMap<K, W>,
    writes: &mut Vec<Write>,
    remove: impl Fn(&K) -> Write,
) {
    let gone = held.keys().filter(|key| !desired.contains_key(key));
    writes.extend(gone.map(remove));
}

fn count(slots: &[u32]) -> u32 {
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}

//! The maps, as the verdict sees them.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_sk_release,
};
use mesh_common::address::{Address, SocketAddress};
use mesh_common::endpoint::Endpoint;
use mesh_common::policy::{Authorization, Policy};
use mesh_common::service::{ListenerKey, Service, ServiceKey, SlotKey};
use mesh_common::settings::Settings;
use mesh_common::verdict::{Liveness, Tables};
use mesh_common::workload::{Caller, Workload};

use crate::count::add_to;
use crate::maps::{
    CURSORS, ENDPOINTS, IDENTITIES, LISTENERS, OPEN, POLICY, SERVICES, SETTINGS, SLOTS,
};

/// The maps of this object.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        // SAFETY: entries are replaced whole, and their memory outlives the program's run.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        // SAFETY: as above.
        unsafe { SLOTS.get(key) }.copied()
    }

    #[inline(always)]
    fn endpoint(&self, id: u32) -> Option<Endpoint> {
        // SAFETY: as above.
        unsafe { ENDPOINTS.get(id) }.copied()
    }

    #[inline(always)]
    fn identity(&self, address: &Address) -> Option<Workload> {
        // SAFETY: as above.
        unsafe { IDENTITIES.get(address) }.copied()
    }

    #[inline(always)]
    fn authorize(
        &self,
        key: &SocketAddress,
        caller: &Caller,
        source: &Address,
        port: u16,
    ) -> Authorization {
        // SAFETY: as above.
        let Some(policy) = (unsafe { POLICY.get(key) }) else {
            return Authorization::default();
        };
        let bits = weigh(policy, caller, source, u32::from(port));
        Authorization {
            is_denied: bits & DENIED != 0,
            is_audited: bits & AUDITED != 0,
        }
    }

    #[inline(always)]
    fn open_connections(&self, endpoint: u32) -> u64 {
        // SAFETY: as above; the count may be a moment old.
        unsafe { OPEN.get(endpoint) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn next(&self, port_id: u32) -> u32 {
        if CURSORS.get_ptr_mut(port_id).is_none() {
            // Another CPU may have been faster; what counts is the look-up below.
            let _raced = CURSORS.insert(port_id, 0, u64::from(BPF_NOEXIST));
        }
        let Some(cursor) = CURSORS.get_ptr_mut(port_id) else {
            return self.random();
        };
        // SAFETY: the pointer comes from a map look-up and is valid until the program ends.
        let taken = unsafe { cursor.read_volatile() };
        // Two callers at the same moment may take the same number: the shares stay right, nothing is skipped.
        add_to(cursor, 1);
        taken as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no conditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn liveness(&self, netns: u64, family: u32) -> Liveness {
        if !has_listener(netns, family) {
            return Liveness::Absent;
        }
        let Some(settings) = settings() else {
            return Liveness::Absent;
        };
        // SAFETY: the helper has no conditions.
        let now = unsafe { bpf_ktime_get_ns() };
        if now.saturating_sub(settings.heartbeat_ns) >= settings.stale_after_ns {
            return Liveness::Hung;
        }
        Liveness::Alive
    }
}

/// The switches, if the agent has ever written them.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Bits of [`weigh`].
const DENIED: u32 = 1;
/// An audited policy would refuse.
const AUDITED: u32 = 1 << 1;

/// A function of its own, so that the kernel checks the loop over the rules apart from its callers.
#[inline(never)]
fn weigh(policy: &Policy, caller: &Caller, source: &Address, port: u32) -> u32 {
    let authorization = policy.authorize(caller, source, port as u16);
    u32::from(authorization.is_denied) * DENIED + u32::from(authorization.is_audited) * AUDITED
}

/// Whether the agent listens; its sockets leave the map when it dies.
#[inline(never)]
fn has_listener(netns: u64, family: u32) -> bool {
    let key = ListenerKey {
        netns,
        family,
        padding: 0,
    };
    // SAFETY: the map and the key are what the helper expects; the kernel checks their sizes.
    let socket = unsafe {
        bpf_map_lookup_elem(
            (&raw const LISTENERS).cast_mut().cast(),
            (&raw const key).cast(),
        )
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: a look-up in a map of sockets takes a reference, which is given back here, once.
    let _always_zero = unsafe { bpf_sk_release(socket) };
    true
}

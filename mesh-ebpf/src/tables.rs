//! The maps, as the verdict sees them.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_loop, bpf_map_lookup_elem, bpf_sk_release,
};
use aya_ebpf::maps::lpm_trie::Key;
use mesh_common::address::{Address, SocketAddress};
use mesh_common::balance;
use mesh_common::conn::{Conn, Tuple};
use mesh_common::egress::EgressKey;
use mesh_common::endpoint::Endpoint;
use mesh_common::policy::{Authorization, MAX_RULES, Policy, PolicyKey, Seen};
use mesh_common::service::{ListenerKey, Role, Service, ServiceKey, SlotKey};
use mesh_common::settings::Settings;
use mesh_common::verdict::{Liveness, Tables};
use mesh_common::workload::{Caller, Workload};

use crate::count::add_to;
use crate::maps::{
    CURSORS, EGRESS, ENDPOINTS, IDENTITIES, LISTENERS, OPEN, PENDING, POLICY, SERVICES, SETTINGS,
    SLOTS,
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
        key: &PolicyKey,
        caller: &Caller,
        source: &Address,
        port: u16,
    ) -> Authorization {
        let bits = mesh_ask(key, caller, source, u32::from(port));
        Authorization {
            is_denied: bits & DENIED != 0,
            is_audited: bits & AUDITED != 0,
        }
    }

    #[inline(always)]
    fn pick(&self, service: &Service, family: u32, current: u32) -> Option<(u32, Endpoint)> {
        let mut endpoint = Endpoint::default();
        match mesh_choose(service, family, current, &raw mut endpoint) {
            0 => None,
            id => Some((id, endpoint)),
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
    fn may_leave(&self, workload: u32, destination: &SocketAddress) -> bool {
        mesh_may_leave(workload, destination) != 0
    }

    #[inline(always)]
    fn liveness(&self, netns: u64, family: u32, role: Role) -> Liveness {
        if !has_listener(netns, family, role as u32) {
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

/// What was published of the connection that its caller names `tuple`, if it may still be under way.
#[inline(always)]
pub(crate) fn pending(tuple: &Tuple) -> Option<&'static Conn> {
    // SAFETY: the entry may be replaced meanwhile only by a new connection of the same name; its memory outlives the
    // program's run.
    let conn = unsafe { PENDING.get(tuple) }?;
    // SAFETY: the helper has no conditions.
    let now = unsafe { bpf_ktime_get_ns() };
    conn.is_pending(now).then_some(conn)
}

/// Picks an endpoint: its number, or zero if none takes connections.
///
/// Exported, which makes it a global function to the kernel: verified once for any caller, not again in every state
/// that a caller may be in. Its pointers may be null, as far as the verifier knows.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn mesh_choose(
    service: *const Service,
    family: u32,
    current: u32,
    endpoint: *mut Endpoint,
) -> u32 {
    // SAFETY: the verifier checks what callers pass.
    let (Some(service), Some(endpoint)) = (unsafe { (service.as_ref(), endpoint.as_mut()) }) else {
        return 0;
    };
    match balance::pick(&Maps, service, family, current) {
        Some((id, picked)) => {
            *endpoint = picked;
            id
        }
        None => 0,
    }
}

/// May this caller dial this port?
#[repr(C)]
struct Question<'a> {
    policy: &'a Policy,
    caller: Caller,
    source: Address,
    port: u32,
    seen: Seen,
}

/// Bits of [`mesh_ask`].
const DENIED: u32 = 1;
/// An audited policy would refuse.
const AUDITED: u32 = 1 << 1;

/// Looks at every rule of `key`. The kernel runs the loop, so that its verifier checks one step and not every path
/// through 64. Exported for the same reason as [`mesh_choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn mesh_ask(
    key: *const PolicyKey,
    caller: *const Caller,
    source: *const Address,
    port: u32,
) -> u32 {
    // SAFETY: the verifier checks what callers pass.
    let (Some(key), Some(caller), Some(source)) =
        (unsafe { (key.as_ref(), caller.as_ref(), source.as_ref()) })
    else {
        return 0;
    };
    // SAFETY: entries are replaced whole, and their memory outlives the program's run.
    let Some(policy) = (unsafe { POLICY.get(key) }) else {
        return 0;
    };
    let [nothing, ..] = &policy.rules;
    let mut question = Question {
        policy,
        caller: *caller,
        source: *source,
        port,
        seen: Seen::begin(nothing.padding),
    };
    let step: extern "C" fn(u64, *mut Question<'_>) -> i64 = step;
    // SAFETY: `step` takes what the helper passes: the number of the step, and the pointer given here.
    let _steps = unsafe {
        bpf_loop(
            MAX_RULES as u32,
            step as *mut _,
            (&raw mut question).cast(),
            0,
        )
    };
    let authorization = question.seen.authorization();
    u32::from(authorization.is_denied) * DENIED + u32::from(authorization.is_audited) * AUDITED
}

/// Looks at one rule; 1 ends the loop.
extern "C" fn step(index: u64, question: *mut Question<'_>) -> i64 {
    // SAFETY: `mesh_ask` passes the pointer, and nothing else refers to the question meanwhile.
    let question = unsafe { &mut *question };
    if index >= u64::from(question.policy.count) {
        return 1;
    }
    let Some(rule) = question.policy.rules.get(index as usize) else {
        return 1;
    };
    let (caller, source) = (&question.caller, &question.source);
    question
        .seen
        .note(rule, caller, source, question.port as u16);
    0
}

/// Whether a workload may dial what is no service: 1, else zero.
///
/// Exported for the same reason as [`mesh_choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn mesh_may_leave(workload: u32, destination: *const SocketAddress) -> u32 {
    // SAFETY: the verifier checks what callers pass.
    let Some(destination) = (unsafe { destination.as_ref() }) else {
        return 0;
    };
    for question in EgressKey::questions(workload, destination) {
        if EGRESS.get(Key::new(question.bits, question.exit)).is_some() {
            return 1;
        }
    }
    0
}

/// Whether the agent listens; its sockets leave the map when it dies.
#[inline(never)]
fn has_listener(netns: u64, family: u32, role: u32) -> bool {
    let key = ListenerKey {
        netns,
        family,
        role,
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

//! A connection arrives in a workload's network namespace: may this caller come in?

use aya_ebpf::bindings::{bpf_sk_lookup, sk_action::SK_DROP, sk_action::SK_PASS};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use mesh_common::address::{Address, SocketAddress};
use mesh_common::conn::{Conn, Tuple};
use mesh_common::event::{Event, Kind};
use mesh_common::policy::{Authorization, PolicyKey};
use mesh_common::service::{TCP, UDP};
use mesh_common::settings::Settings;
use mesh_common::stats::Counter;
use mesh_common::verdict::{Reason, Tables as _, Verdict};
use mesh_common::workload::Caller;

use crate::context::{field, pair_of_addresses};
use crate::count::{bump, emit};
use crate::tables::{Maps, pending, settings};

/// A SYN looks for its listener, or a datagram for a socket that is not connected. Dropping a SYN answers with a reset:
/// the caller's connection is refused. Of a datagram nobody hears again.
#[sk_lookup]
pub(crate) fn mesh_sk_lookup(ctx: SkLookupContext) -> u32 {
    let lookup: *mut bpf_sk_lookup = ctx.lookup;
    let protocol = field!(lookup, protocol);
    if protocol != u32::from(TCP) && protocol != u32::from(UDP) {
        return SK_PASS;
    }
    let (local, remote) = ends(lookup);
    let is_local = local.address.is_loopback()
        || remote.address.is_loopback()
        || local.address == remote.address;
    if is_local || settings().is_none_or(|settings| settings.has(Settings::PASS_ALL)) {
        return SK_PASS;
    }
    if protocol == u32::from(UDP) {
        admit_datagram(&local, &remote)
    } else {
        admit(&local, &remote)
    }
}

#[inline(always)]
fn ends(lookup: *mut bpf_sk_lookup) -> (SocketAddress, SocketAddress) {
    let (local, remote) = pair_of_addresses!(lookup);
    (
        SocketAddress::new(local, field!(lookup, local_port) as u16),
        SocketAddress::new(remote, u16::from_be(field!(lookup, remote_port))),
    )
}

/// Who calls.
struct Party {
    caller: Caller,
    workload: u32,
    /// The connection comes from this node: its audit was counted at connect.
    is_here: bool,
}

/// A caller of another node, known by its address alone.
#[inline(always)]
fn stranger(address: &Address) -> Party {
    let workload = Maps.identity(address).unwrap_or_default();
    Party {
        caller: workload.caller,
        workload: workload.id,
        is_here: false,
    }
}

#[inline(never)]
fn admit(local: &SocketAddress, remote: &SocketAddress) -> u32 {
    // Neither end is loopback, so that the name has no namespace.
    let party = match pending(&Tuple::new(*remote, *local, 0)) {
        Some(conn) if conn.is_own() && conn.has(Conn::AUTHORIZED) => return SK_PASS,
        Some(conn) => Party {
            caller: conn.caller,
            workload: conn.workload,
            is_here: true,
        },
        None => stranger(&remote.address),
    };
    let authorization = authorize(local, remote, &party);
    let callee = Maps
        .identity(&local.address)
        .map_or(0, |workload| workload.id);
    if authorization.is_denied {
        bump(callee, Counter::InboundDeny, Reason::Policy);
        report(Kind::DeniedInbound, Verdict::Deny, &party, (local, remote));
        return SK_DROP;
    }
    if authorization.is_audited && !party.is_here {
        bump(callee, Counter::AuditDeny, Reason::Policy);
        report(Kind::AuditDenied, Verdict::Pass, &party, (local, remote));
    }
    SK_PASS
}

/// Only what policy says of the port: what it says of a whole workload cannot be asked here, where a datagram to the
/// workload and an answer to one of its own look alike. It is asked where the datagram is sent. There are as many
/// refusals as somebody likes to cause: they are counted, and not told one by one.
#[inline(never)]
fn admit_datagram(local: &SocketAddress, remote: &SocketAddress) -> u32 {
    let party = stranger(&remote.address);
    let key = PolicyKey::port(local, UDP);
    let authorization = Maps.authorize(&key, &party.caller, &remote.address, local.port);
    let callee = Maps
        .identity(&local.address)
        .map_or(0, |workload| workload.id);
    if authorization.is_denied {
        bump(callee, Counter::InboundDeny, Reason::Policy);
        return SK_DROP;
    }
    // Who is on this node was counted when it sent.
    if authorization.is_audited && party.workload == 0 {
        bump(callee, Counter::AuditDeny, Reason::Policy);
    }
    SK_PASS
}

/// What policy says of the port and of the whole workload.
#[inline(always)]
fn authorize(local: &SocketAddress, remote: &SocketAddress, party: &Party) -> Authorization {
    let (caller, source) = (&party.caller, &remote.address);
    let exact = PolicyKey::port(local, TCP);
    let exact = Maps.authorize(&exact, caller, source, local.port);
    let whole = PolicyKey::workload(local.address);
    let whole = Maps.authorize(&whole, caller, source, local.port);
    Authorization {
        is_denied: exact.is_denied | whole.is_denied,
        is_audited: exact.is_audited | whole.is_audited,
    }
}

#[inline(always)]
fn report(kind: Kind, verdict: Verdict, party: &Party, ends: (&SocketAddress, &SocketAddress)) {
    // SAFETY: the helper has no conditions.
    let now = unsafe { bpf_ktime_get_ns() };
    emit(&Event {
        kind: kind as u8,
        verdict: verdict as u8,
        reason: Reason::Policy as u8,
        workload: party.workload,
        source: *ends.1,
        original: *ends.0,
        destination: *ends.0,
        time_ns: now,
        started_ns: now,
        ..Event::default()
    });
}

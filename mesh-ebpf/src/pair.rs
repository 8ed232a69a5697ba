//! Pairs the two sockets of a connection on this node, so that `sk_msg` can move bytes between them.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::SockOpsContext;
use mesh_common::conn::Tuple;
use mesh_common::redirect::{Peer, State};
use mesh_common::settings::Settings;
use mesh_common::stats::Counter;
use mesh_common::verdict::Reason;

use crate::context::{field, stored_or_zero};
use crate::count::bump;
use crate::globals::{HAS_OFFSETS, WRITE_PENDING};
use crate::maps::{PEERS, REDIRECTS, SOCKETS};
use crate::sk_msg::read;
use crate::tables::settings;

/// Enters a socket as one end of a pair. The entry in `PEERS` comes last: who finds it may redirect to `SOCKETS`.
///
/// The kernel refuses subflows of MPTCP; such a connection stays with TCP.
#[inline(always)]
pub(crate) fn pair(ctx: &SockOpsContext, socket: *mut bpf_sock, tuple: &Tuple, service: u32) {
    let is_off = settings().is_none_or(|settings| settings.has(Settings::ACCELERATION_OFF));
    // Data in the SYN (TCP fast open) went before the pair was there: what is redirected would overtake it.
    if is_off || HAS_OFFSETS.load() == 0 || field!(ctx.ops, data_segs_out) != 0 {
        return;
    }
    // SAFETY: the kernel passes a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: as above; nothing else refers to it.
    let ops = unsafe { &mut *ctx.ops };
    if SOCKETS.update(*tuple, ops, 0).is_err() {
        bump(service, Counter::AccelerationFallback, Reason::Failed);
        return;
    }
    let peer = Peer {
        socket: socket as u64,
        cookie,
        received: 0,
    };
    if PEERS.insert(tuple, peer, 0).is_err() {
        bump(service, Counter::MapFull, Reason::NoPeer);
    }
    if waits_for_connection(tuple)
        && let Some(state) = stored_or_zero(&REDIRECTS, socket)
    {
        state.state = State::Tcp as u32;
        state.reason = Reason::NoPeer as u32;
        bump(service, Counter::AccelerationFallback, Reason::NoPeer);
    }
}

/// Whether a call has begun to send on the socket before its connection was there (TCP fast open without a cookie, `send`
/// after a `connect` that did not wait). It goes on in the TCP stack, unseen; what is redirected would overtake it.
#[inline(always)]
fn waits_for_connection(tuple: &Tuple) -> bool {
    // From the map, because the verifier lets nobody calculate with the socket's own pointer.
    // SAFETY: the entry is this socket's own, removed only by it.
    let socket = unsafe { PEERS.get(tuple) }.map(|peer| peer.socket);
    socket.is_none_or(|socket| !matches!(read::<u32>(socket, WRITE_PENDING.load()), Ok(0)))
}

//! A message sent on a paired socket: moves it into the other socket, past the TCP stack, where that is safe.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_INGRESS, bpf_sock, sk_action::SK_PASS, sk_msg_md};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_probe_read_kernel};
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use mesh_common::address::{Address, SocketAddress};
use mesh_common::conn::Tuple;
use mesh_common::redirect::{Peer, Redirect, State};
use mesh_common::settings::Settings;
use mesh_common::stats::Counter;
use mesh_common::verdict::Reason;

use crate::context::{field, pair_of_addresses, stored, stored_or_zero};
use crate::count::{add, add_to, bump};
use crate::globals::{COOKIE, HAS_OFFSETS, RCVBUF, RMEM_ALLOC};
use crate::maps::{CONN, FALLBACKS, PEERS, REDIRECTS, SOCKETS};
use crate::tables::settings;

/// A message is about to be sent. Whatever happens here, it is: redirected, or through the TCP stack.
#[sk_msg]
pub(crate) fn mesh_sk_msg(ctx: SkMsgContext) -> u32 {
    let socket = field!(ctx.msg, __bindgen_anon_3.sk);
    if !socket.is_null()
        && let Some(state) = stored_or_zero(&REDIRECTS, socket)
        && state.state != State::Tcp as u32
    {
        send(&ctx, socket, state);
    }
    SK_PASS
}

/// One step of the state machine of [`Redirect`].
#[inline(always)]
fn send(ctx: &SkMsgContext, socket: *mut bpf_sock, state: &mut Redirect) {
    let service = stored(&CONN, socket).map_or(0, |conn| conn.service);
    let size = u64::from(field!(ctx.msg, size));
    match redirect(ctx, state, size) {
        Ok(()) => {
            state.state = State::Redirect as u32;
            state.bytes += size;
            state.messages += 1;
            add(service, Counter::AcceleratedBytes as u16, 0, size);
            add(service, Counter::AcceleratedMessages as u16, 0, 1);
        }
        Err(reason) => {
            if state.state == State::Redirect as u32
                && let Some(fallbacks) = FALLBACKS.get_ptr_mut(0)
            {
                // The reader of what was redirected is to look whether more has come by TCP.
                add_to(fallbacks, 1);
            }
            state.state = State::Tcp as u32;
            state.reason = reason as u32;
            bump(service, Counter::AccelerationFallback, reason);
        }
    }
}

/// Redirects the message, or says why not.
#[inline(always)]
fn redirect(ctx: &SkMsgContext, state: &mut Redirect, size: u64) -> Result<(), Reason> {
    let is_off = settings().is_none_or(|settings| settings.has(Settings::ACCELERATION_OFF));
    if is_off || HAS_OFFSETS.load() == 0 {
        return Err(Reason::Disabled);
    }
    let peer_name = peer_tuple(ctx);
    let Some(peer) = PEERS.get_ptr_mut(peer_name) else {
        return Err(if state.state == State::Undecided as u32 {
            Reason::NoPeer
        } else {
            Reason::PeerGone
        });
    };
    // SAFETY: the pointer comes from a map look-up and is valid until the program ends.
    let Peer { socket, cookie, .. } = unsafe { *peer };
    let is_known = state.peer == 0 || state.peer == cookie;
    if !is_known || read::<u64>(socket, COOKIE.load())? != cookie {
        return Err(Reason::PeerGone);
    }
    let waiting = u64::from(read::<u32>(socket, RMEM_ALLOC.load())?);
    if waiting + size > u64::from(read::<u32>(socket, RCVBUF.load())?) {
        return Err(Reason::PeerFull);
    }
    if SOCKETS.redirect_msg(ctx, peer_name, u64::from(BPF_F_INGRESS)) != i64::from(SK_PASS) {
        return Err(Reason::Failed);
    }
    state.peer = cookie;
    // SAFETY: as above.
    add_to(unsafe { &raw mut (*peer).received }, size);
    Ok(())
}

/// The connection, as the other end names it.
#[inline(always)]
fn peer_tuple(ctx: &SkMsgContext) -> Tuple {
    let msg: *mut sk_msg_md = ctx.msg;
    let (local, remote) = pair_of_addresses!(msg);
    // SAFETY: the kernel passes a valid context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    Tuple::new(
        SocketAddress::new(remote, u32::from_be(field!(msg, remote_port)) as u16),
        SocketAddress::new(local, field!(msg, local_port) as u16),
        netns,
    )
}

/// Reads a field of a `struct sock`. The socket may be gone; its memory can still be read safely.
#[inline(always)]
pub(crate) fn read<T: Default>(socket: u64, offset: u32) -> Result<T, Reason> {
    let mut value = T::default();
    // SAFETY: the helper checks the address that it reads, and `value` is as large as it is told.
    let failed = unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            (socket + u64::from(offset)) as *const _,
        )
    };
    if failed == 0 {
        Ok(value)
    } else {
        Err(Reason::PeerGone)
    }
}

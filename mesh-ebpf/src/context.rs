//! What the hooks are told, read and written field by field.
//!
//! Every access is volatile: LLVM would merge neighbouring ones into an eight-byte access, which the verifier refuses.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr, bpf_sock_ops};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::programs::{SockAddrContext, SockOpsContext};
use mesh_common::address::{Address, SocketAddress};
use mesh_common::conn::Tuple;

/// `AF_INET`.
pub(crate) const AF_INET: u32 = 2;
/// `AF_INET6`.
pub(crate) const AF_INET6: u32 = 10;
/// `SOCK_STREAM`.
pub(crate) const SOCK_STREAM: u32 = 1;
/// `SOCK_DGRAM`.
pub(crate) const SOCK_DGRAM: u32 = 2;

/// Reads one field of a context: `field!(pointer, name)`.
macro_rules! field {
    ($context:expr, $($field:tt)+) => {
        // SAFETY: the kernel passes a valid context that lives as long as the program runs.
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($field)+) }
    };
}
pub(crate) use field;

/// Reads an IPv6 address, word by word.
macro_rules! words {
    ($context:expr, $($field:tt)+) => {
        Address {
            words: [
                $crate::context::field!($context, $($field)+[0]),
                $crate::context::field!($context, $($field)+[1]),
                $crate::context::field!($context, $($field)+[2]),
                $crate::context::field!($context, $($field)+[3]),
            ],
        }
    };
}
pub(crate) use words;

/// Both addresses of a context, local first.
///
/// The IPv4 ones are read for either family: of two branches that read LLVM would make one that reads at a computed
/// offset, which the verifier refuses.
macro_rules! pair_of_addresses {
    ($context:expr) => {{
        let local = $crate::context::field!($context, local_ip4);
        let remote = $crate::context::field!($context, remote_ip4);
        if $crate::context::field!($context, family) == $crate::context::AF_INET {
            (Address::v4(local), Address::v4(remote))
        } else {
            (
                $crate::context::words!($context, local_ip6),
                $crate::context::words!($context, remote_ip6),
            )
        }
    }};
}
pub(crate) use pair_of_addresses;

/// The address in a `bpf_sock_addr`: what is dialled, or what `getpeername` will show.
#[inline(always)]
pub(crate) fn user_address(context: *mut bpf_sock_addr, family: u32) -> SocketAddress {
    let address = if family == AF_INET {
        Address::v4(field!(context, user_ip4))
    } else {
        words!(context, user_ip6)
    };
    SocketAddress::new(address, u16::from_be(field!(context, user_port) as u16))
}

/// Replaces the address in a `bpf_sock_addr`.
#[inline(always)]
pub(crate) fn set_user_address(context: *mut bpf_sock_addr, family: u32, to: &SocketAddress) {
    let words = to.address.words;
    // SAFETY: the kernel passes a valid context that lives as long as the program runs.
    unsafe {
        if family == AF_INET {
            (&raw mut (*context).user_ip4).write_volatile(words[3]);
        } else {
            (&raw mut (*context).user_ip6[0]).write_volatile(words[0]);
            (&raw mut (*context).user_ip6[1]).write_volatile(words[1]);
            (&raw mut (*context).user_ip6[2]).write_volatile(words[2]);
            (&raw mut (*context).user_ip6[3]).write_volatile(words[3]);
        }
        (&raw mut (*context).user_port).write_volatile(u32::from(to.port.to_be()));
    }
}

/// The socket of a `bpf_sock_addr`; never null.
#[inline(always)]
pub(crate) fn dialling_socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    field!(ctx.sock_addr, __bindgen_anon_1.sk)
}

/// The address that a socket is bound to, or unspecified.
#[inline(always)]
pub(crate) fn bound_address(socket: *mut bpf_sock, family: u32) -> Address {
    if family == AF_INET {
        Address::v4(field!(socket, src_ip4))
    } else {
        words!(socket, src_ip6)
    }
}

/// Whether a datagram socket is connected.
#[inline(always)]
pub(crate) fn is_connected(socket: *mut bpf_sock) -> bool {
    field!(socket, dst_port) != 0
}

/// Whether a socket is connected to `peer`. Of a `family` that is known when the program is compiled.
#[inline(always)]
pub(crate) fn is_connected_to(socket: *mut bpf_sock, family: u32, peer: &SocketAddress) -> bool {
    let address = if family == AF_INET {
        Address::v4(field!(socket, dst_ip4))
    } else {
        words!(socket, dst_ip6)
    };
    u16::from_be(field!(socket, dst_port)) == peer.port && address == peer.address
}

/// The socket of a `bpf_sock_ops`, if it is a full one.
#[inline(always)]
pub(crate) fn full_socket(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    let socket = field!(ctx.ops, __bindgen_anon_2.sk);
    if socket.is_null() { None } else { Some(socket) }
}

/// The connection of a `bpf_sock_ops`, as its socket names it.
#[inline(always)]
pub(crate) fn tuple(ctx: &SockOpsContext) -> Tuple {
    let ops: *mut bpf_sock_ops = ctx.ops;
    let (local, remote) = pair_of_addresses!(ops);
    // SAFETY: the kernel passes a valid context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    Tuple::new(
        SocketAddress::new(local, field!(ops, local_port) as u16),
        SocketAddress::new(remote, u32::from_be(field!(ops, remote_port)) as u16),
        netns,
    )
}

/// What a storage map holds of a socket.
#[inline(always)]
pub(crate) fn stored<T>(
    map: &'static SkStorage<T>,
    socket: *mut bpf_sock,
) -> Option<&'static mut T> {
    storage(map, socket, core::ptr::null_mut(), 0)
}

/// Writes what a storage map holds of a socket.
#[inline(always)]
pub(crate) fn store<T: Copy>(map: &'static SkStorage<T>, socket: *mut bpf_sock, value: &T) -> bool {
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    let initial = core::ptr::from_ref(value).cast_mut();
    match storage(map, socket, initial, create) {
        Some(stored) => {
            *stored = *value;
            true
        }
        None => false,
    }
}

/// What a storage map holds of a socket, zeroes if nothing yet.
#[inline(always)]
pub(crate) fn stored_or_zero<T>(
    map: &'static SkStorage<T>,
    socket: *mut bpf_sock,
) -> Option<&'static mut T> {
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    storage(map, socket, core::ptr::null_mut(), create)
}

#[inline(always)]
fn storage<T>(
    map: *const SkStorage<T>,
    socket: *mut bpf_sock,
    initial: *mut T,
    flags: u64,
) -> Option<&'static mut T> {
    // SAFETY: the verifier checks that the socket is one and that the map holds values of this size; the value lives
    // at least as long as the program runs.
    unsafe {
        bpf_sk_storage_get(map.cast_mut().cast(), socket.cast(), initial.cast(), flags)
            .cast::<T>()
            .as_mut()
    }
}

//! What a packet says of itself: does it open a connection, or ask the agent for a name, and between whom?

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use mesh_common::address::{Address, SocketAddress};
use mesh_common::service::{RESOLVER_PORT, RESOLVER_PORTS, TCP, UDP};

use crate::context::field;

/// `ETH_P_IP`, as the context shows it.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
/// `ETH_P_IPV6`, as the context shows it.
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// SYN and ACK in the flags of a TCP header.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Two addresses, and whether they are those of a connection that opens; else of a question to the agent.
pub(crate) struct Opening {
    pub(crate) is_connection: bool,
    pub(crate) source: SocketAddress,
    pub(crate) destination: SocketAddress,
}

/// Source and destination, if the packet opens a connection or asks the agent for a name.
#[inline(always)]
pub(crate) fn opening(skb: *mut __sk_buff) -> Option<Opening> {
    let protocol = field!(skb, protocol);
    if is_segment_of_old(skb, protocol) {
        return None;
    }
    let (next, header) = if protocol == ETH_P_IP {
        let first: u8 = load(skb, 0)?;
        (load::<u8>(skb, 9)?, u32::from(first & 15) * 4)
    } else if protocol == ETH_P_IPV6 {
        (load::<u8>(skb, 6)?, 40)
    } else {
        return None;
    };
    let port = u16::from_be(load(skb, header + 2)?);
    let is_opening = match next {
        TCP => load::<u8>(skb, header + 13)? & (SYN | ACK) == SYN,
        UDP => (RESOLVER_PORT..RESOLVER_PORT + RESOLVER_PORTS).contains(&port),
        _ => false,
    };
    if !is_opening {
        return None;
    }
    let (source, destination) = if protocol == ETH_P_IP {
        let source = Address::v4(load(skb, 12)?);
        (source, Address::v4(load(skb, 16)?))
    } else {
        (load(skb, 8)?, load(skb, 24)?)
    };
    Some(Opening {
        is_connection: next == TCP,
        source: SocketAddress::new(source, u16::from_be(load(skb, header)?)),
        destination: SocketAddress::new(destination, port),
    })
}

/// Whether this is plainly not a SYN: of nearly every packet that can be said by looking at two bytes in place.
#[inline(always)]
fn is_segment_of_old(skb: *mut __sk_buff, protocol: u32) -> bool {
    let (data, end) = (field!(skb, data) as usize, field!(skb, data_end) as usize);
    let (next, flags) = if protocol == ETH_P_IP {
        (9, 33)
    } else {
        (6, 53)
    };
    if data + 54 > end {
        return false;
    }
    let packet = data as *const u8;
    // SAFETY: 54 bytes are there, as compared above; the verifier insists on it.
    let (first, next, flags) = unsafe {
        (
            packet.read_volatile(),
            packet.add(next).read_volatile(),
            packet.add(flags).read_volatile(),
        )
    };
    let has_options = protocol == ETH_P_IP && first != 0x45;
    !has_options && next == TCP && flags & (SYN | ACK) != SYN
}

#[inline(always)]
fn load<T: Default>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper checks the offset, and `value` is as large as it is told.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            offset,
            (&raw mut value).cast(),
            size_of::<T>() as u32,
        )
    };
    (failed == 0).then_some(value)
}

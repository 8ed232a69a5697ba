//! What a workload may dial beside services though its egress is locked: keys of `EGRESS`, which finds the longest prefix.

use crate::address::{Address, SocketAddress};

/// Key of `EGRESS`: destinations that may be dialled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct EgressKey {
    /// Bits of `exit` that count: its first fields whole, and as much of the address as the network has.
    pub bits: u32,
    /// Whose exit, and where to.
    pub exit: Exit,
}

const _: () = assert!(size_of::<EgressKey>() == 4 + 24);

/// A way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Exit {
    /// Number of the workload; zero: every one.
    pub workload: u32,
    /// The port, in host byte order; zero: every one. [`EgressKey::V6`] is added where the address is IPv6.
    pub port: u32,
    /// The network, or the address that is dialled.
    pub address: Address,
}

const _: () = assert!(size_of::<Exit>() == 4 + 4 + 16);

impl EgressKey {
    /// Bits of [`Exit`] before the address.
    const FIXED: u32 = 2 * u32::BITS;
    /// Bits before the IPv4 address in a v4-mapped one.
    const MAPPED: u8 = 96;
    /// Beside the port of IPv6. Else `::/0` would have every IPv4 address in it, as they are v4-mapped ones.
    const V6: u32 = 1 << u16::BITS;

    /// The key of a network: `prefix` is 0 to 128, so 96 more than an IPv4 prefix.
    #[must_use]
    #[inline(always)]
    pub const fn network(workload: u32, port: u16, network: Address, prefix: u8) -> Self {
        let is_v4 = network.is_v4() && prefix >= Self::MAPPED;
        let family = if is_v4 { 0 } else { Self::V6 };
        Self {
            bits: Self::FIXED + prefix as u32,
            exit: Exit {
                workload,
                port: port as u32 | family,
                address: network,
            },
        }
    }

    /// The questions to `EGRESS` about what a workload dials, one after the other: any answer says that it may.
    #[must_use]
    #[inline(always)]
    pub const fn questions(workload: u32, dialled: &SocketAddress) -> [Self; 4] {
        let port = dialled.port;
        [
            Self::network(workload, 0, dialled.address, 128),
            Self::network(workload, port, dialled.address, 128),
            Self::network(0, 0, dialled.address, 128),
            Self::network(0, port, dialled.address, 128),
        ]
    }
}

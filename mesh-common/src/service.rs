//! What a workload dials: keys and values of `SERVICES`, `SLOTS` and `LISTENERS`.

use crate::address::{Address, SocketAddress};

/// Key of `SERVICES`: what was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ServiceKey {
    /// A virtual address of the service.
    pub address: Address,
    /// The port, in host byte order.
    pub port: u16,
    /// IP protocol number: [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Always zero.
    pub padding: u8,
}

const _: () = assert!(size_of::<ServiceKey>() == 16 + 2 + 1 + 1);

impl ServiceKey {
    /// What a socket of IP protocol `protocol` dials at `to`.
    #[must_use]
    #[inline(always)]
    pub const fn new(to: &SocketAddress, protocol: u8) -> Self {
        Self {
            address: to.address,
            port: to.port,
            protocol,
            padding: 0,
        }
    }
}

/// IP protocol number of TCP (and of MPTCP, whose subflows are TCP).
pub const TCP: u8 = 6;

/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Value of `SERVICES`: one port of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Service {
    /// Number of the service; with the port it owns the slots.
    pub id: u32,
    /// Number of the service's port; the owner of the slots and of the round-robin cursor.
    pub port_id: u32,
    /// The slots to read: they are written under a new generation before this value replaces the old one.
    pub generation: u32,
    /// How many slots hold IPv4 endpoints.
    pub slots_v4: u32,
    /// How many slots hold IPv6 endpoints.
    pub slots_v6: u32,
    /// A [`Mode`].
    pub mode: u8,
    /// A [`Balancing`](crate::balance::Balancing).
    pub balancing: u8,
    /// Always zero.
    pub padding: u16,
}

const _: () = assert!(size_of::<Service>() == 4 * 5 + 4);

/// How the connections of a service port travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// The kernel picks an endpoint; no proxy in the path.
    Direct = 1,
    /// Through the proxy of the node.
    Proxy = 2,
}

/// Key of `SLOTS`: where the number of an endpoint is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SlotKey {
    /// Number of the service's port.
    pub port_id: u32,
    /// Generation of the slots.
    pub generation: u32,
    /// 4 or 6.
    pub family: u32,
    /// Counts from zero.
    pub slot: u32,
}

const _: () = assert!(size_of::<SlotKey>() == 4 * 4);

/// Most slots that one service port has per address family. Weights are scaled so that they fit.
pub const MAX_SLOTS: u32 = 4096;

/// Key of `LISTENERS`: a listener of the agent in a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ListenerKey {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// 4 or 6.
    pub family: u32,
    /// A [`Role`].
    pub role: u32,
}

const _: () = assert!(size_of::<ListenerKey>() == 8 + 4 + 4);

/// What the agent listens for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Role {
    /// What workloads dial, at [`OUTBOUND_PORT`].
    Outbound = 0,
    /// Questions for names, at [`RESOLVER_PORT`]. Only the TCP listener is known to the kernel: the UDP sockets live and
    /// die with it.
    Resolver = 1,
}

/// Port of the outbound listener in every workload's network namespace, on 127.0.0.1 and `::1`.
pub const OUTBOUND_PORT: u16 = 15001;

/// Port at which resolvers listen.
pub const DNS_PORT: u16 = 53;

/// First port at which the agent answers questions for names, on 127.0.0.1 and `::1`; over TCP the only one. Of UDP
/// there are [`RESOLVER_PORTS`].
pub const RESOLVER_PORT: u16 = 15053;

/// How many resolvers one datagram socket that is not connected can ask at the same time, each through a port of its own
/// beginning at [`RESOLVER_PORT`]. No resolver library asks more than three (`MAXNS` of glibc and musl).
pub const RESOLVER_PORTS: u16 = 4;

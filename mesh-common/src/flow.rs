//! Where a socket's datagrams go, and where answers seem to come from: `REPLIES`; whom a question was for: `QUERIES`.

use crate::address::SocketAddress;

/// Key of `REPLIES`: one address that a datagram socket exchanges datagrams with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Cookie of the socket.
    pub cookie: u64,
    /// The address, by [`Way`] as the socket or as the network names it.
    pub address: SocketAddress,
    /// A [`Way`].
    pub way: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 8 + 20 + 4);

impl FlowKey {
    /// The entry of the socket with cookie `cookie` for `address`.
    #[must_use]
    #[inline(always)]
    pub const fn new(cookie: u64, address: SocketAddress, way: Way) -> Self {
        Self {
            cookie,
            address,
            way: way as u32,
        }
    }
}

/// What an entry of `REPLIES` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Way {
    /// From the address that the socket sends to, to the endpoint that gets it.
    Out = 1,
    /// From the endpoint that answers, to the address that the socket sent to.
    Back = 2,
    /// The address has sent to the socket, which may answer it whatever policy says: the value says nothing.
    Caller = 3,
}

/// Value of `REPLIES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Flow {
    /// The other name of the address.
    pub address: SocketAddress,
    /// Number of the endpoint, or zero.
    pub endpoint: u32,
}

const _: () = assert!(size_of::<Flow>() == 20 + 4);

/// Key of `QUERIES`: who asks the agent, as the agent sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct QueryKey {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// Where the question comes from.
    pub client: SocketAddress,
    /// The port of the agent that it was sent to, in host byte order.
    pub port: u32,
}

const _: () = assert!(size_of::<QueryKey>() == 8 + 20 + 4);

/// Value of `QUERIES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Query {
    /// The resolver that was asked.
    pub resolver: SocketAddress,
    /// Number of the workload that asks.
    pub workload: u32,
}

const _: () = assert!(size_of::<Query>() == 20 + 4);

//! Where connections go: values of `ENDPOINTS`.

use crate::address::{Address, SocketAddress};

/// One address and port that serves a service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Endpoint {
    /// Its address.
    pub address: Address,
    /// Its port, in host byte order.
    pub port: u16,
    /// A [`State`].
    pub state: u8,
    /// Always zero.
    pub padding: u8,
    /// Its weight, at least 1.
    pub weight: u32,
    /// Number of the service's port that it serves; an endpoint may be moved to another service.
    pub port_id: u32,
}

const _: () = assert!(size_of::<Endpoint>() == 16 + 2 + 1 + 1 + 4 + 4);

impl Endpoint {
    /// Its address and port.
    #[must_use]
    #[inline(always)]
    pub const fn socket_address(&self) -> SocketAddress {
        SocketAddress::new(self.address, self.port)
    }
}

/// Whether an endpoint takes new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Takes new connections.
    Ready = 1,
    /// Keeps what it has, takes nothing new.
    Draining = 2,
    /// Found dead.
    Failed = 3,
}

//! State of acceleration: `PEERS` and `REDIRECTS`.
//!
//! `sk_msg` programs live on in old sockets, so these layouts change only with [`SCHEMA`](crate::SCHEMA).

/// Value of `PEERS`: where the kernel keeps a paired socket, and what was handed to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Peer {
    /// Address of the kernel's `struct sock`; read with `bpf_probe_read_kernel` only.
    pub socket: u64,
    /// Cookie of that socket: another one there means that the memory was used again.
    pub cookie: u64,
    /// Bytes redirected to that socket.
    pub received: u64,
}

const _: () = assert!(size_of::<Peer>() == 8 * 3);

/// Value of `REDIRECTS` (socket storage of the sender): one direction of a pair.
///
/// [`Undecided`](State::Undecided) becomes [`Redirect`](State::Redirect) or [`Tcp`](State::Tcp), `Redirect` becomes
/// `Tcp`, and nothing ever goes back: the reader drains redirected bytes first, so only this order keeps them in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Redirect {
    /// A [`State`].
    pub state: u32,
    /// Why the state is `Tcp`: a [`Reason`](crate::verdict::Reason), or zero.
    pub reason: u32,
    /// Cookie of the receiver, from the first redirected message on.
    pub peer: u64,
    /// Bytes redirected.
    pub bytes: u64,
    /// Messages redirected.
    pub messages: u64,
}

const _: () = assert!(size_of::<Redirect>() == 4 + 4 + 8 * 3);

/// How one direction of a pair moves its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum State {
    /// Nothing was sent yet.
    Undecided = 0,
    /// From socket to socket.
    Redirect = 1,
    /// Through the TCP stack, for good.
    Tcp = 2,
}

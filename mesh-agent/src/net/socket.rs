//! Sockets made inside a network namespace, and their options.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd as _, RawFd};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::netns::Netns;

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// After how long without an answer the kernel gives up on sent data.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// When the kernel starts to ask an idle peer whether it is there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A listener at `address` inside `netns`, non-blocking.
pub fn listen(netns: &Netns, address: SocketAddr) -> io::Result<std::net::TcpListener> {
    netns.run(|| {
        let socket = stream(address)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    })?
}

/// An unconnected stream socket inside `netns` that can reach `address`, non-blocking; with `source` bound to it.
pub fn dial(netns: &Netns, address: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = netns.run(|| stream(address))??;
    socket.set_tcp_nodelay(true)?;
    set_liveness(&SockRef::from(&socket))?;
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        // The kernel picks the port at connect, by the whole tuple, so that ports do not run out early.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// A datagram socket inside `netns` that can reach `address`, non-blocking.
pub fn datagram(netns: &Netns, address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    netns.run(|| Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP)))?
}

/// A datagram socket at `address` inside `netns`, non-blocking.
pub fn bind_datagram(netns: &Netns, address: SocketAddr) -> io::Result<Socket> {
    let socket = datagram(netns, address)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Takes one connection from a listener: non-blocking, closed on exec, bound to no runtime yet.
pub fn accept(listener: &std::net::TcpListener) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    // SAFETY: a null address is allowed and means that the caller does not want it.
    let descriptor = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    let stream = unsafe { std::net::TcpStream::from_raw_fd(descriptor) };
    let peer = stream.peer_addr()?;
    Ok((stream, peer))
}

/// Options of an accepted connection.
pub fn prepare_accepted(stream: &std::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_liveness(&SockRef::from(stream))
}

/// Makes the next close of the socket a reset, so that the other side sees a refusal and not an orderly end.
pub fn reset_on_close(stream: &impl std::os::fd::AsFd) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// A TCP socket that somebody else owns, to be asked about for as long as that one has it: after its end the number may be
/// that of another.
#[derive(Clone, Copy, Debug)]
pub struct Watched(RawFd);

impl Watched {
    /// Watches over `stream`.
    pub fn new(stream: &impl AsRawFd) -> Self {
        Self(stream.as_raw_fd())
    }

    /// Whether the other side sends no more: it has closed its sending side, or has reset the connection. Nothing is read,
    /// so this is known even where bytes wait to be.
    #[must_use]
    pub fn has_finished(&self) -> bool {
        /// Numbers of states, from `net/tcp_states.h`.
        const CLOSE: u8 = 7;
        const CLOSE_WAIT: u8 = 8;
        // The first byte of `struct tcp_info` is the state.
        let mut state = 0_u8;
        let mut size: libc::socklen_t = 1;
        // SAFETY: `state` and `size` are valid for the length that `size` says; the kernel checks the descriptor.
        let result = unsafe {
            libc::getsockopt(
                self.0,
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut state).cast(),
                &raw mut size,
            )
        };
        result == 0 && matches!(state, CLOSE | CLOSE_WAIT)
    }
}

fn stream(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))
}

fn set_liveness(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

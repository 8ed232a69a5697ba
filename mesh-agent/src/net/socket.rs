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

/// When the kernel starts to ask an idle peer whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// So many questions without an answer end an idle connection, a third of [`KEEPALIVE`] apart.
const PROBES: u32 = 3;

/// The longest wait before data is sent again, in milliseconds: Linux gives up after 15 times (`net.ipv4.tcp_retries2`),
/// so half a minute after a peer has vanished.
const MOST_RTO_MS: libc::c_int = 2_000;

/// The option for it, of Linux 6.15.
const TCP_RTO_MAX_MS: libc::c_int = 44;

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

/// Lets the kernel find peers that have vanished. No `TCP_USER_TIMEOUT`: it also ends a connection whose reader takes its
/// time, though that one's kernel answers.
fn set_liveness(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 3)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    // Older kernels wait up to two minutes before they send again, and give up after a quarter of an hour.
    match set_option(socket, TCP_RTO_MAX_MS, MOST_RTO_MS) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

fn set_option(socket: &SockRef<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: a valid value of this length, and a descriptor that is open during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::{PROBES, prepare_accepted};

    #[test]
    fn a_reader_may_take_its_time_and_a_vanished_peer_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        prepare_accepted(&accepted).unwrap();
        let socket = socket2::SockRef::from(&accepted);
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
    }
}

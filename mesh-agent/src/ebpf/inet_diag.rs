//! Asks the kernel for the TCP sockets of a network namespace, with what the hooks have stored about each
//! (`sock_diag(7)`). The requests are built by hand: no crate knows the attribute that asks for socket storage.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use aya::Pod;
use mesh_common::conn::Conn;
use mesh_common::redirect::Redirect;
use socket2::{Domain, Protocol, Socket, Type};

use super::Tables;

mod destroy;
#[cfg(test)]
mod tests;

pub use destroy::destroy;

/// One TCP socket.
#[derive(Clone, Copy, Debug)]
pub struct TcpSocket {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// `struct inet_diag_sockid`: names it to the kernel.
    pub id: [u8; 48],
    /// Its state: a number of `enum` in `net/tcp_states.h`.
    pub state: u8,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Its cookie.
    pub cookie: u64,
    /// Id of the cgroup it was made in.
    pub cgroup: u64,
    /// What the kernel measures.
    pub info: TcpInfo,
    /// What the hooks know of it.
    pub conn: Option<Conn>,
    /// How its bytes are redirected.
    pub redirect: Option<Redirect>,
}

/// What the kernel measures about a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Bytes that the peer has acknowledged, SYN and FIN not counted.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Smoothed round trip.
    pub rtt_micros: u32,
    /// Segments sent again.
    pub retransmits: u32,
}

/// States of a socket that matter here.
pub mod state {
    /// Both ends may send.
    pub const ESTABLISHED: u8 = 1;
    /// Dialled, not answered.
    pub const SYN_SENT: u8 = 2;
    /// This end has sent its last byte.
    pub const FIN_WAIT1: u8 = 4;
    /// The peer knows.
    pub const FIN_WAIT2: u8 = 5;
    /// The peer will send no more.
    pub const CLOSE_WAIT: u8 = 8;
    /// Accepts connections.
    pub const LISTEN: u8 = 10;
}

/// The maps whose values are wanted, by descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Storages<'a> {
    /// `CONN`.
    pub conn: BorrowedFd<'a>,
    /// `REDIRECTS`.
    pub redirects: BorrowedFd<'a>,
}

impl<'a> Storages<'a> {
    /// Those of the agent.
    pub fn of(tables: &'a Tables) -> Self {
        Self {
            conn: tables.conn.as_fd(),
            redirects: tables.redirects.as_fd(),
        }
    }
}

/// Calls `visit` for each TCP socket of the calling thread's network namespace in one of `states` (a bit per state),
/// until it returns false. Blocks for as long as the kernel needs.
pub fn visit(
    states: u32,
    storages: Option<Storages<'_>>,
    mut visit: impl FnMut(TcpSocket) -> bool,
) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut socket = open()?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let request = request(u8::try_from(family).unwrap_or_default(), states, storages);
        // One datagram goes whole or not at all.
        socket.write_all(&request)?;
        if !receive(&mut socket, &mut visit)? {
            return Ok(());
        }
    }
    Ok(())
}

fn open() -> io::Result<Socket> {
    Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_SOCK_DIAG)),
    )
}

/// The kernel answers at once; longer means that it does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The kernel fills at most 32 KiB per datagram of a dump.
const DATAGRAM: usize = 64 * 1024;

/// Reads one dump. False, if `visit` wants no more.
fn receive(socket: &mut Socket, visit: &mut impl FnMut(TcpSocket) -> bool) -> io::Result<bool> {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.read(&mut buffer)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, payload, next)) = message(rest) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(true),
                libc::NLMSG_ERROR => {
                    let number = read::<i32>(payload, 0).unwrap_or(-libc::EPROTO);
                    return Err(io::Error::from_raw_os_error(-number));
                }
                _ => {
                    if let Some(found) = parse(payload)
                        && !visit(found)
                    {
                        return Ok(false);
                    }
                }
            }
            rest = next;
        }
    }
}

/// The first message of a datagram: its type, its payload, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(read::<u32>(bytes, 0)?).ok()?;
    let kind = read::<u16>(bytes, 4)?;
    let payload = bytes.get(MESSAGE_HEADER..length)?;
    let next = bytes.get(aligned(length)..).unwrap_or_default();
    Some((kind, payload, next))
}

/// Bytes of `struct nlmsghdr`.
const MESSAGE_HEADER: usize = 16;

/// Bytes of `struct inet_diag_req_v2`.
const REQUEST_BODY: usize = 56;

/// Bytes of `struct inet_diag_msg`.
const ANSWER_BODY: usize = 72;

/// `SOCK_DIAG_BY_FAMILY`; `SOCK_DESTROY` is the next.
const BY_FAMILY: u16 = 20;

/// `INET_DIAG_INFO`.
const ATTRIBUTE_INFO: u16 = 2;

/// `INET_DIAG_SK_BPF_STORAGES`.
const ATTRIBUTE_STORAGES: u16 = 20;

/// `INET_DIAG_CGROUP_ID`.
const ATTRIBUTE_CGROUP: u16 = 21;

/// `INET_DIAG_REQ_SK_BPF_STORAGES`.
const REQUEST_STORAGES: u16 = 2;

/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`.
const REQUEST_MAP_FD: u16 = 1;

/// `SK_DIAG_BPF_STORAGE`.
const STORAGE: u16 = 1;

/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
const STORAGE_VALUE: u16 = 3;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// Bits of an attribute's type that are not flags.
const TYPE_MASK: u16 = 0x3fff;

fn request(family: u8, states: u32, storages: Option<Storages<'_>>) -> Vec<u8> {
    let mut body = vec![
        family,
        u8::try_from(libc::IPPROTO_TCP).unwrap_or_default(),
        1 << (ATTRIBUTE_INFO - 1),
        0,
    ];
    body.extend(states.to_ne_bytes());
    // The rest names one socket: zeros name all.
    body.resize(REQUEST_BODY, 0);
    if let Some(storages) = storages {
        let maps: Vec<u8> = [storages.conn, storages.redirects]
            .into_iter()
            .flat_map(|map| attribute(REQUEST_MAP_FD, &map.as_raw_fd().to_ne_bytes()))
            .collect();
        body.extend(attribute(REQUEST_STORAGES | NESTED, &maps));
    }
    let length = u32::try_from(MESSAGE_HEADER + body.len()).unwrap_or_default();
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or_default();
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_HEADER + payload.len()).unwrap_or_default();
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

/// Bytes of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;

/// Messages and attributes begin at multiples of 4.
const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The attributes in `bytes`: type and payload of each.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(read::<u16>(bytes, 0)?);
        let kind = read::<u16>(bytes, 2)? & TYPE_MASK;
        let payload = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// One socket, as `struct inet_diag_msg` and its attributes describe it.
fn parse(bytes: &[u8]) -> Option<TcpSocket> {
    let is_v4 = i32::from(*bytes.first()?) == libc::AF_INET;
    let mut socket = TcpSocket {
        family: *bytes.first()?,
        id: read(bytes, 4)?,
        state: *bytes.get(1)?,
        local: SocketAddr::new(address(bytes, 8, is_v4)?, port(bytes, 4)?),
        remote: SocketAddr::new(address(bytes, 24, is_v4)?, port(bytes, 6)?),
        // Two halves, the low one first.
        cookie: u64::from(read::<u32>(bytes, 44)?) | u64::from(read::<u32>(bytes, 48)?) << 32,
        cgroup: 0,
        info: TcpInfo::default(),
        conn: None,
        redirect: None,
    };
    for (kind, payload) in attributes(bytes.get(ANSWER_BODY..)?) {
        match kind {
            ATTRIBUTE_INFO => socket.info = info(payload).unwrap_or_default(),
            ATTRIBUTE_CGROUP => socket.cgroup = read(payload, 0).unwrap_or_default(),
            ATTRIBUTE_STORAGES => {
                for (_, storage) in attributes(payload).filter(|(kind, _)| *kind == STORAGE) {
                    for (_, value) in attributes(storage).filter(|(kind, _)| *kind == STORAGE_VALUE)
                    {
                        socket.store(value);
                    }
                }
            }
            _ => {}
        }
    }
    Some(socket)
}

impl TcpSocket {
    /// Takes a value of one of the two maps, which are told apart by their size.
    fn store(&mut self, value: &[u8]) {
        if value.len() == size_of::<Conn>() {
            self.conn = read(value, 0);
        } else if value.len() == size_of::<Redirect>() {
            self.redirect = read(value, 0);
        }
    }
}

const _: () = assert!(size_of::<Conn>() != size_of::<Redirect>());

fn port(bytes: &[u8], offset: usize) -> Option<u16> {
    read::<u16>(bytes, offset).map(u16::from_be)
}

fn address(bytes: &[u8], offset: usize, is_v4: bool) -> Option<IpAddr> {
    if is_v4 {
        return read::<[u8; 4]>(bytes, offset).map(IpAddr::from);
    }
    let octets = read::<[u8; 16]>(bytes, offset)?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
}

/// The few fields of `struct tcp_info` that are wanted, by their offsets, which never change.
fn info(bytes: &[u8]) -> Option<TcpInfo> {
    let acknowledged: u64 = read(bytes, 120)?;
    Some(TcpInfo {
        // The kernel counts the SYN as a byte.
        bytes_sent: acknowledged.saturating_sub(1),
        bytes_received: read(bytes, 128)?,
        rtt_micros: read(bytes, 68)?,
        retransmits: read(bytes, 100)?,
    })
}

/// The value at `offset`, if it is all there.
fn read<T: Pod>(bytes: &[u8], offset: usize) -> Option<T> {
    let bytes = bytes.get(offset..offset.checked_add(size_of::<T>())?)?;
    // SAFETY: the slice has the size of `T`, any bytes are a `T`, and the read asks for no alignment.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

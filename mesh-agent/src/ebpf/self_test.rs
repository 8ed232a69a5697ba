//! Does acceleration work on this kernel? Tried at start on a pair of the agent's own sockets.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

use mesh_common::conn::Conn;
use mesh_common::redirect::State;
use mesh_common::stats::{Counter, StatKey};
use mesh_common::verdict::Reason;
use socket2::{Domain, Socket, Type};

use super::{TableError, Tables};

/// How long the test may take.
const LIMIT: Duration = Duration::from_secs(2);
/// A sender whose peer does not read must be stopped before it has sent so much.
const MAX_QUEUED: usize = 32 << 20;
/// Number of the service that the test's bytes are counted for; the counters are removed afterwards. Numbers are given from
/// below, and [`StatKey::GONE`] has the last one.
const NO_SERVICE: u32 = u32::MAX - 1;

const _: () = assert!(NO_SERVICE != StatKey::GONE);

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A call failed.
    #[error("a call on a paired socket failed: {0}")]
    Io(#[from] io::Error),
    /// The maps cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Bytes went through TCP.
    #[error("bytes of a paired socket are not redirected ({})", .0.as_str())]
    NotRedirected(Reason),
    /// Bytes were lost or changed places.
    #[error("bytes of a paired socket arrive changed or out of order")]
    Disordered,
    /// A sender is not stopped.
    #[error("a peer that does not read does not stop its sender")]
    Unbounded,
    /// A closed direction is not seen, or closes the other.
    #[error("half-close does not work on a paired socket")]
    HalfClose,
    /// It hangs.
    #[error("a paired socket hangs")]
    Hangs,
}

/// Runs the test; the hooks must be attached, and acceleration switched on.
pub(super) fn run(tables: &Tables) -> Result<(), Failure> {
    let result = Pair::connect(tables).and_then(|mut pair| pair.test(tables));
    for counter in [
        Counter::AcceleratedBytes,
        Counter::AcceleratedMessages,
        Counter::AccelerationFallback,
    ] {
        for reason in Reason::ALL {
            tables.stats.remove(&StatKey {
                subject: NO_SERVICE,
                counter: counter as u16,
                reason: reason as u16,
            })?;
        }
    }
    result
}

/// Both ends of a connection over loopback.
struct Pair {
    dialled: TcpStream,
    accepted: TcpStream,
    deadline: Instant,
}

impl Pair {
    fn connect(tables: &Tables) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address: SocketAddr = listener.local_addr()?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let conn = Conn {
            flags: Conn::OWN | Conn::AUTHORIZED | Conn::ACCELERATED,
            service: NO_SERVICE,
            ..Conn::default()
        };
        tables.conn.insert(&socket.as_raw_fd(), &conn)?;
        socket.connect_timeout(&address.into(), LIMIT)?;
        let dialled = TcpStream::from(socket);
        let (accepted, _) = listener.accept()?;
        dialled.set_nonblocking(true)?;
        accepted.set_nonblocking(true)?;
        Ok(Self {
            dialled,
            accepted,
            deadline: Instant::now() + LIMIT,
        })
    }

    fn test(&mut self, tables: &Tables) -> Result<(), Failure> {
        for round in 0..32 {
            let message = pattern(round, 1 + round * 37);
            self.exchange(&message)?;
        }
        check_redirected(tables, self.dialled.as_raw_fd())?;
        check_redirected(tables, self.accepted.as_raw_fd())?;
        self.overfill()?;
        self.half_close()
    }

    /// There and back.
    fn exchange(&mut self, message: &[u8]) -> Result<(), Failure> {
        let deadline = self.deadline;
        write(&mut self.dialled, message, deadline)?;
        let there = read(&mut self.accepted, message.len(), deadline)?;
        write(&mut self.accepted, &there, deadline)?;
        let back = read(&mut self.dialled, message.len(), deadline)?;
        if back == message {
            Ok(())
        } else {
            Err(Failure::Disordered)
        }
    }

    /// Writes until the kernel says stop, then reads everything.
    fn overfill(&mut self) -> Result<(), Failure> {
        // Twice the period, so that every write can start where the last one ended.
        let bytes = pattern(0, 2 * 251 * 128);
        let mut sent = 0;
        while sent < MAX_QUEUED {
            let rest = bytes.get(sent % (251 * 128)..).unwrap_or_default();
            match self.dialled.write(rest) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        if sent >= MAX_QUEUED {
            return Err(Failure::Unbounded);
        }
        let received = read(&mut self.accepted, sent, self.deadline)?;
        if received == pattern(0, sent) {
            Ok(())
        } else {
            Err(Failure::Disordered)
        }
    }

    /// One direction ends, the other goes on.
    fn half_close(&mut self) -> Result<(), Failure> {
        self.dialled.shutdown(Shutdown::Write)?;
        if !read(&mut self.accepted, 1, self.deadline)?.is_empty() {
            return Err(Failure::HalfClose);
        }
        write(&mut self.accepted, b"last words", self.deadline)?;
        if read(&mut self.dialled, 10, self.deadline)? == b"last words" {
            Ok(())
        } else {
            Err(Failure::HalfClose)
        }
    }
}

fn check_redirected(tables: &Tables, socket: RawFd) -> Result<(), Failure> {
    let redirect = tables.redirects.get(&socket)?.unwrap_or_default();
    if redirect.state == State::Redirect as u32 && redirect.bytes > 0 {
        return Ok(());
    }
    let reason = u16::try_from(redirect.reason).ok();
    let reason = reason.and_then(Reason::from_number);
    Err(Failure::NotRedirected(reason.unwrap_or_default()))
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (seed..seed + length)
        .map(|number| u8::try_from(number % 251).unwrap_or_default())
        .collect()
}

fn write(stream: &mut TcpStream, mut bytes: &[u8], deadline: Instant) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) => wait(error, deadline)?,
        }
    }
    Ok(())
}

/// Reads `length` bytes, or less where the stream ends.
fn read(stream: &mut TcpStream, length: usize, deadline: Instant) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) => wait(error, deadline)?,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Lets others run; the whole test takes milliseconds where it works.
fn wait(error: io::Error, deadline: Instant) -> Result<(), Failure> {
    if error.kind() != io::ErrorKind::WouldBlock {
        return Err(error.into());
    }
    if Instant::now() > deadline {
        return Err(Failure::Hangs);
    }
    std::thread::yield_now();
    Ok(())
}

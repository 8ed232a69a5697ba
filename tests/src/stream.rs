//! Byte streams of blocking threads: what arrived is compared with what was sent, and the time it took is measured.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::task::spawn_blocking;

use crate::load::Tally;
use crate::pace;
use crate::protocol::{Answer, Failure, Report, Task};

/// How long a blocked sender counts as blocked for good.
const QUIET: Duration = Duration::from_millis(500);

/// How long a reader waits for more bytes.
const SILENCE: Duration = Duration::from_secs(20);

/// The tasks of blocking threads.
pub(crate) fn perform(task: Task) -> Result<Answer, Failure> {
    match task {
        Task::ManyConnects {
            address,
            connections,
            threads,
        } => Ok(Answer::Report(many_connects(address, connections, threads))),
        Task::Upload {
            address,
            bytes,
            chunk,
        } => Ok(Answer::Report(upload(address, bytes, chunk)?)),
        Task::Echo {
            address,
            bytes,
            chunk,
        } => Ok(Answer::Report(echo(address, bytes, chunk)?)),
        Task::Fill { address, limit } => Ok(Answer::Filled(fill(address, limit)?)),
        Task::RoundTrips {
            address,
            size,
            millis,
        } => Ok(Answer::Report(round_trips(address, size, millis)?)),
        Task::Paced(pace) => Ok(Answer::Report(pace::run(pace)?)),
        Task::Stream { address, millis } => Ok(Answer::Report(stream(address, millis)?)),
        _ => Err(io::Error::other("no task of a stream").into()),
    }
}

/// Bytes that tell their offset: pseudo-random, with a period that no buffer size divides.
pub(crate) fn pattern(offset: u64, length: usize) -> &'static [u8] {
    const PERIOD: usize = 1_048_573;
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        period.repeat(3)
    });
    let start = usize::try_from(offset % PERIOD as u64).unwrap();
    &bytes[start..][..length.min(PERIOD)]
}

/// Compares bytes with the pattern. The longest run that is looked at is one period.
pub(crate) fn is_pattern(offset: u64, bytes: &[u8]) -> bool {
    pattern(offset, bytes.len()) == bytes
}

fn many_connects(address: SocketAddr, connections: u64, threads: u64) -> Report {
    let started = Instant::now();
    let remaining = AtomicU64::new(connections);
    let work = || {
        let mut tally = Tally::new(started);
        while remaining
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            let begin = Instant::now();
            tally.count(begin, one_connection(address).map(|()| None));
        }
        tally
    };
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for _ in 0..threads {
            running.push(scope.spawn(work));
        }
        let tallies = running.into_iter().map(|thread| thread.join().unwrap());
        Tally::report(started, tallies)
    })
}

/// Connects, sends bytes, and wants the same bytes back.
pub(crate) fn one_connection(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let port = stream.local_addr()?.port().to_be_bytes();
    stream.write_all(&port)?;
    let mut back = [0; 2];
    receive_exactly(&mut stream, &mut back)?;
    if back == port {
        Ok(())
    } else {
        Err(io::Error::other("other bytes came back"))
    }
}

fn upload(address: SocketAddr, bytes: u64, chunk: usize) -> io::Result<Report> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    send_pattern(&mut stream, bytes, chunk)?;
    stream.shutdown(Shutdown::Write)?;
    let verdict = receive_line(&mut stream)?;
    let expected = format!("{bytes} as sent");
    if verdict != expected {
        return Err(io::Error::other(format!(
            "{bytes} bytes sent; the server says {verdict:?}"
        )));
    }
    Ok(transferred(started, bytes))
}

fn echo(address: SocketAddr, bytes: u64, chunk: usize) -> io::Result<Report> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    let mut writer = stream.try_clone()?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            send_pattern(&mut writer, bytes, chunk)?;
            writer.shutdown(Shutdown::Write)
        });
        let mut buffer = vec![0; 65_536];
        let mut offset = 0;
        loop {
            let length = receive(&mut stream, &mut buffer)?;
            if length == 0 {
                break;
            }
            if !is_pattern(offset, &buffer[..length]) {
                return Err(io::Error::other(format!("other bytes after {offset}")));
            }
            offset += length as u64;
        }
        sender.join().unwrap()?;
        if offset != bytes {
            return Err(io::Error::other(format!(
                "{offset} of {bytes} bytes came back"
            )));
        }
        Ok(transferred(started, bytes))
    })
}

fn transferred(started: Instant, bytes: u64) -> Report {
    Report {
        succeeded: 1,
        bytes,
        ..Tally::report(started, std::iter::empty())
    }
}

fn send_pattern(stream: &mut TcpStream, bytes: u64, chunk: usize) -> io::Result<()> {
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from((bytes - offset).min(chunk as u64)).unwrap();
        let piece = pattern(offset, length);
        stream.write_all(piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

fn fill(address: SocketAddr, limit: u64) -> io::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nonblocking(true)?;
    let mut sent = 0;
    while sent < limit {
        match stream.write(pattern(sent, 65_536)) {
            Ok(length) => sent += length as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait_for(&stream, libc::POLLOUT, QUIET)? {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

fn round_trips(address: SocketAddr, size: usize, millis: u64) -> io::Result<Report> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let message = pattern(0, size);
    let mut back = vec![0; size];
    let started = Instant::now();
    let end = started + Duration::from_millis(millis);
    let mut tally = Tally::new(started);
    while Instant::now() < end {
        let begin = Instant::now();
        stream.write_all(message)?;
        receive_exactly(&mut stream, &mut back)?;
        tally.count(begin, Ok(None));
    }
    if back != message {
        return Err(io::Error::other("other bytes came back"));
    }
    Ok(Tally::report(started, [tally]))
}

fn stream(address: SocketAddr, millis: u64) -> io::Result<Report> {
    let mut stream = TcpStream::connect(address)?;
    let started = Instant::now();
    let end = started + Duration::from_millis(millis);
    let mut sent = 0;
    while Instant::now() < end {
        let piece = pattern(sent, 131_072);
        stream.write_all(piece)?;
        sent += piece.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let verdict = receive_line(&mut stream)?;
    if verdict != format!("{sent} as sent") {
        return Err(io::Error::other(format!(
            "{sent} bytes sent; the server says {verdict:?}"
        )));
    }
    Ok(transferred(started, sent))
}

/// Leaves the connection of a socket, and dials another address with the same socket.
pub(crate) async fn redial(
    stream: tokio::net::TcpStream,
    address: SocketAddr,
) -> Result<(), Failure> {
    let socket = Socket::from(stream.into_std()?);
    let dial = move || {
        let nobody = libc::sockaddr {
            sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap(),
            sa_data: [0; 14],
        };
        let length = libc::socklen_t::try_from(size_of_val(&nobody)).unwrap();
        // SAFETY: a valid address of this length, and a descriptor that the socket keeps open during the call.
        if unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        socket.connect_timeout(&address.into(), SILENCE)
    };
    spawn_blocking(dial).await.unwrap().map_err(Into::into)
}

/// Reads what is there. On a paired socket a blocking read may say that it would block: then it waits and reads again.
pub(crate) fn receive(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait_for(stream, libc::POLLIN, SILENCE)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn receive_exactly(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match receive(stream, &mut buffer[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => filled += more,
        }
    }
    Ok(())
}

fn receive_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    loop {
        match receive(stream, &mut buffer)? {
            0 => return Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
            more => line.extend_from_slice(&buffer[..more]),
        }
    }
}

fn wait_for(stream: &TcpStream, events: i16, deadline: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: stream.as_raw_fd(),
        events,
        revents: 0,
    };
    let millis = i32::try_from(deadline.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one valid pollfd, whose descriptor the stream keeps open during the call.
    match unsafe { libc::poll(&raw mut poll, 1, millis) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_pattern, pattern};

    #[test]
    fn the_pattern_tells_its_offset() {
        assert!(is_pattern(5_000_000, pattern(5_000_000, 65_536)));
        assert!(!is_pattern(5_000_001, pattern(5_000_000, 65_536)));
    }
}

//! Requests at a fixed rate from one blocking thread. The time of each is counted from the moment it was due, so that a
//! server that stalls cannot hide behind a client that waits for it.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use crate::hold::answer_length;
use crate::load::Tally;
use crate::protocol::{Pace, Report};

/// Sent before anything is counted, in parts of the whole time.
const WARM_UP: u32 = 8;

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends until the time is over, and waits for the answers that are missing.
pub(crate) fn run(pace: Pace) -> io::Result<Report> {
    // The kernel may otherwise delay each wake-up by 50 us.
    // SAFETY: changes an attribute of this thread; no pointer is passed.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
    }
    let mut lanes = (0..pace.connections)
        .map(|_| Lane::open(&pace))
        .collect::<io::Result<Vec<_>>>()?;
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", pace.address);
    let started = Instant::now();
    let whole = Duration::from_millis(pace.millis);
    let measured = started + whole / WARM_UP;
    let end = measured + whole;
    let mut arrivals = Arrivals::new(started, pace.rate);
    let mut due = VecDeque::new();
    let mut tally = Tally::new(measured);
    loop {
        let now = Instant::now();
        while arrivals.next <= now && arrivals.next < end {
            due.push_back(arrivals.next);
            arrivals.advance();
        }
        for lane in lanes.iter_mut().filter(|lane| lane.due.is_none()) {
            let Some(when) = due.pop_front() else { break };
            lane.send(request.as_bytes(), when)?;
        }
        let is_quiet = lanes.iter().all(|lane| lane.due.is_none());
        if now >= end && is_quiet {
            return Ok(Tally::report(measured, [tally]));
        }
        if now > end + PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let until = if arrivals.next < end {
            arrivals.next
        } else {
            now + Duration::from_millis(50)
        };
        for index in wait(&lanes, until)? {
            if let Some(when) = lanes[index].receive()?
                && when >= measured
            {
                tally.count(when, Ok(None));
            }
        }
    }
}

/// When requests are due: independent of each other, `rate` a second on average.
struct Arrivals {
    next: Instant,
    mean: f64,
    state: u64,
}

impl Arrivals {
    fn new(start: Instant, rate: u32) -> Self {
        Self {
            next: start,
            mean: 1.0 / f64::from(rate),
            state: 0x9e37_79b9_7f4a_7c15 ^ u64::from(std::process::id()),
        }
    }

    /// Exponential distances, by inversion, from the bits of an xorshift generator (Marsaglia 2003).
    fn advance(&mut self) {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let bits = u32::try_from(self.state >> 32).unwrap_or(u32::MAX);
        let share = (f64::from(bits) + 1.0) / (f64::from(u32::MAX) + 1.0);
        self.next += Duration::from_secs_f64(-share.ln() * self.mean);
    }
}

/// One connection, and what is under way on it.
struct Lane {
    stream: TcpStream,
    answer: Vec<u8>,
    due: Option<Instant>,
}

impl Lane {
    fn open(pace: &Pace) -> io::Result<Self> {
        let stream = TcpStream::connect(pace.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            answer: Vec::with_capacity(8_192),
            due: None,
        })
    }

    fn send(&mut self, request: &[u8], due: Instant) -> io::Result<()> {
        self.answer.clear();
        self.due = Some(due);
        self.stream.write_all(request)
    }

    /// Reads what is there; when the answer is whole, when it was due.
    fn receive(&mut self) -> io::Result<Option<Instant>> {
        let mut buffer = [0; 8_192];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.answer.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let is_whole = answer_length(&self.answer)?.is_some_and(|all| self.answer.len() >= all);
        Ok(if is_whole { self.due.take() } else { None })
    }
}

/// The lanes that have something to read, at the latest at `until`.
fn wait(lanes: &[Lane], until: Instant) -> io::Result<Vec<usize>> {
    let mut polled: Vec<libc::pollfd> = lanes
        .iter()
        .map(|lane| libc::pollfd {
            fd: lane.stream.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let left = until.saturating_duration_since(Instant::now());
    let limit = libc::timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
        tv_nsec: left.subsec_nanos().into(),
    };
    let count = polled.len() as libc::nfds_t;
    // SAFETY: `polled` has `count` entries, whose descriptors the lanes keep open; the limit lives on the stack.
    let ready = unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            count,
            &raw const limit,
            std::ptr::null(),
        )
    };
    if ready < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_ready = |(index, poll): (usize, &libc::pollfd)| (poll.revents != 0).then_some(index);
    Ok(polled.iter().enumerate().filter_map(is_ready).collect())
}

//! One line per connection or request, written by a thread of its own: a slow reader of stdout never delays traffic.

mod line;

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

pub(crate) use line::{Known, LineText};

/// Writes ready-made lines without waiting. Clones write to the same place; the last one to go writes out what is left.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<Lines>);

#[derive(Clone, Debug)]
struct Lines {
    writer: NonBlocking,
    queue: Arc<Queue>,
    _guard: Arc<WorkerGuard>,
}

/// What waits to be written, and what found no room.
#[derive(Debug, Default)]
struct Queue {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl AccessLog {
    /// A log that writes nothing.
    #[must_use]
    pub const fn disabled() -> Self {
        Self(None)
    }

    /// A log on stdout: the lines that wait together are written together.
    #[must_use]
    pub fn stdout() -> Self {
        Self::to(BufWriter::with_capacity(BUFFER, io::stdout()))
    }

    /// A log that writes to `out`.
    #[must_use]
    pub fn to(out: impl Write + Send + 'static) -> Self {
        let queue = Arc::new(Queue::default());
        let out = Counted {
            out,
            queue: Arc::clone(&queue),
        };
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUED_LINES)
            .thread_name("access-log")
            .finish(out);
        Self(Some(Lines {
            writer,
            queue,
            _guard: Arc::new(guard),
        }))
    }

    /// Whether lines go anywhere: ask before formatting one.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Writes one line, given without its end. When the queue is full the line is lost, and counted.
    pub fn write(&self, line: impl Into<Vec<u8>>) {
        let Some(lines) = &self.0 else { return };
        let mut line = line.into();
        line.push(b'\n');
        if lines.queue.admit(&line) {
            // What is admitted finds room, and in lossy mode the writer never fails.
            drop(lines.writer.clone().write_all(&line));
        }
    }

    /// Lines lost since the start.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |lines| lines.queue.dropped.load(Ordering::Relaxed))
    }
}

impl Queue {
    /// Makes room for a line; none: the line is counted as lost.
    fn admit(&self, line: &[u8]) -> bool {
        let charge = charge(line);
        let before = self.bytes.fetch_add(charge, Ordering::Relaxed);
        let is_admitted = before.saturating_add(charge) <= QUEUED_BYTES;
        if !is_admitted {
            self.bytes.fetch_sub(charge, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        is_admitted
    }
}

/// What a line counts for while it waits.
fn charge(line: &[u8]) -> usize {
    line.len().max(SMALLEST)
}

/// Where lines go that have waited: they make room.
struct Counted<W> {
    out: W,
    queue: Arc<Queue>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    /// Takes one line: so it is called by the thread that writes.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.queue.bytes.fetch_sub(charge(line), Ordering::Relaxed);
        self.out.write_all(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Bytes that are written at once.
const BUFFER: usize = 32 << 10;
/// Bytes that may wait, of all lines together.
const QUEUED_BYTES: usize = 8 << 20;
/// What the shortest line counts for. Most have 300 to 800 bytes.
const SMALLEST: usize = 1 << 10;
/// Places in the queue, as many as lines can be admitted: it is never full before the bytes are. It takes 32 bytes for
/// each from the start.
const QUEUED_LINES: usize = QUEUED_BYTES / SMALLEST;

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let (out, lines) = mpsc::channel();
        let log = AccessLog::to(Chunks(out));
        assert!(log.is_enabled());
        log.write("first".to_owned());
        let other = log.clone();
        drop(log);
        other.write("second".to_owned());
        drop(other);
        let text: String = lines.iter().collect();
        assert_eq!(text, "first\nsecond\n");
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time() {
        let held = Arc::new(Mutex::new(()));
        let hold = held.lock().expect("nobody panicked");
        let log = AccessLog::to(Stuck(Arc::clone(&held)));
        for _ in 0..QUEUED_LINES + 100 {
            log.write("line".to_owned());
        }
        assert!(log.dropped_lines() >= 90, "{}", log.dropped_lines());
        drop(hold);
    }

    #[test]
    fn a_stuck_reader_costs_no_more_memory_where_lines_are_large() {
        const LARGE: usize = 64 << 10;
        let held = Arc::new(Mutex::new(()));
        let hold = held.lock().expect("nobody panicked");
        let log = AccessLog::to(Stuck(Arc::clone(&held)));
        for _ in 0..1_000 {
            log.write(vec![b'x'; LARGE]);
        }
        // One more is in the hands of the thread that is stuck.
        let most = QUEUED_BYTES / LARGE + 1;
        let dropped = usize::try_from(log.dropped_lines()).expect("it fits");
        assert!(dropped >= 1_000 - most, "{dropped}");
        drop(hold);
        // There is room again when it has been written.
        let deadline = Instant::now() + Duration::from_secs(10);
        let queued = || {
            let lines = log.0.as_ref().expect("it is enabled");
            lines.queue.bytes.load(Ordering::Relaxed)
        };
        while queued() > 0 {
            assert!(Instant::now() < deadline, "{} bytes wait", queued());
            thread::yield_now();
        }
        log.write("line".to_owned());
        assert_eq!(usize::try_from(log.dropped_lines()), Ok(dropped));
    }

    #[test]
    fn a_disabled_log_takes_lines_and_forgets_them() {
        let log = AccessLog::disabled();
        log.write("line".to_owned());
        assert!(!log.is_enabled());
        assert_eq!(log.dropped_lines(), 0);
    }

    struct Chunks(mpsc::Sender<String>);

    impl Write for Chunks {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.0.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Stuck(Arc<Mutex<()>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.0.lock());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

//! One line per connection or request, written by a thread of its own: a slow reader of stdout never delays traffic.

mod line;

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

pub(crate) use line::{Known, LineText};

/// Writes ready-made lines without waiting. Clones write to the same place; the last one to go writes out what is left.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<Lines>);

#[derive(Clone, Debug)]
struct Lines {
    writer: NonBlocking,
    dropped: ErrorCounter,
    _guard: Arc<WorkerGuard>,
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
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUED_LINES)
            .thread_name("access-log")
            .finish(out);
        Self(Some(Lines {
            dropped: writer.error_counter(),
            writer,
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
        // In lossy mode the writer takes everything or counts a loss: it never fails.
        drop(lines.writer.clone().write_all(&line));
    }

    /// Lines lost since the start.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |lines| lines.dropped.dropped_lines() as u64)
    }
}

/// Bytes that are written at once.
const BUFFER: usize = 32 << 10;
/// Lines that may wait: at 300 bytes a line, some 2.5 MB. The queue itself takes 32 bytes for each from the start.
const QUEUED_LINES: usize = 8_192;

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

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

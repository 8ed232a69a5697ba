//! What the kernel's programs report one by one: refusals, bypass, and the final values of connections.

pub mod record;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{MapData, RingBuf};
use mesh_common::event::{Event, Kind};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::numbers::Numbers;
use crate::state::Snapshot;
use crate::state::report::Connection;

pub use record::{Format, Record};

#[cfg(test)]
mod tests;

/// The last [`MAX_CLOSED`] connections that were closed, with their final values.
#[derive(Debug, Default)]
pub struct ClosedConnections(Mutex<VecDeque<Connection>>);

/// How many closed connections are remembered.
pub const MAX_CLOSED: usize = 1_000;

impl ClosedConnections {
    /// The closed connections, the last one first.
    #[must_use]
    pub fn list(&self) -> Vec<Connection> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().cloned().collect()
    }

    fn push(&self, connection: Connection) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= MAX_CLOSED {
            ring.pop_front();
        }
        ring.push_back(connection);
    }
}

/// Reads `events` until the task is dropped. Every record goes to `sink`, closed connections also to `closed`.
///
/// Nothing is lost when the task is dropped between records: what was not read stays in the ring buffer. What did not
/// fit there is counted by the kernel.
pub async fn run(
    events: RingBuf<MapData>,
    snapshot: impl Fn() -> Arc<Snapshot> + Send,
    closed: Arc<ClosedConnections>,
    sink: impl FnMut(&Record) + Send,
) -> io::Result<()> {
    let mut reader = Reader {
        snapshot,
        numbers: Numbers::default(),
        closed,
        sink,
    };
    // SAFETY: the ring buffer owns its descriptor, gives out the same one as long as it lives, and is not replaced.
    let mut events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?;
    loop {
        let mut ready = events.readable_mut().await?;
        reader.refresh();
        let mut read = 0;
        while read < BATCH
            && let Some(record) = ready.get_inner_mut().next()
        {
            reader.take(&record);
            read += 1;
        }
        if read < BATCH {
            ready.clear_ready();
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// Records that are read before other tasks get their turn.
const BATCH: usize = 256;

/// Turns bytes of the ring buffer into records.
struct Reader<S, K> {
    snapshot: S,
    numbers: Numbers,
    closed: Arc<ClosedConnections>,
    sink: K,
}

impl<S: Fn() -> Arc<Snapshot>, K: FnMut(&Record)> Reader<S, K> {
    /// Takes up the current view.
    fn refresh(&mut self) {
        let snapshot = (self.snapshot)();
        if !Arc::ptr_eq(&snapshot, self.numbers.snapshot()) {
            self.numbers = Numbers::of(snapshot);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some(record) = parse(bytes).and_then(|event| Record::new(&event, &self.numbers)) else {
            tracing::debug!(length = bytes.len(), "unknown record from the kernel");
            return;
        };
        if record.kind == Kind::Closed {
            self.closed.push(record.connection(&self.numbers));
        }
        (self.sink)(&record);
    }
}

fn parse(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: the slice has the size of an event, any bytes are one, and the read asks for no alignment.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

//! The answer that an HTTP/1 connection is at: there is one at a time, and hyper reads and polls nothing beside it.

use std::sync::atomic::{AtomicBool, Ordering};

/// What is known of the answer that is waited for, or under way.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Only the end of the connection is its end (HTTP/1.0), and it has not ended.
    is_open_ended: AtomicBool,
}

impl Answer {
    /// Its end is told by nothing but that of the connection.
    pub(crate) fn ends_with_connection(&self) {
        self.is_open_ended.store(true, Ordering::Relaxed);
    }

    /// It has come whole.
    pub(crate) fn has_ended(&self) {
        self.is_open_ended.store(false, Ordering::Relaxed);
    }

    /// Whether the client would take a part for the whole if the connection ended in good order now.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.is_open_ended.load(Ordering::Relaxed)
    }
}

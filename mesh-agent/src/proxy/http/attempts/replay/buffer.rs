//! The bytes of a body that are kept: copied into one piece, however small the pieces in which they came, and counted among
//! the buffers of their workload.

use std::sync::Arc;

use bytes::Bytes;

use crate::net::copy::Allowance;
use crate::proxy::http::Connection;

/// Bytes that are set aside at least.
const LEAST: usize = 1024;
/// Most bytes that are given out at once.
const PIECE: usize = 16 * 1024;

/// Bytes within a bound. Given back to the allowance on drop.
#[derive(Debug)]
pub(super) struct Buffer<A: Allowance> {
    bytes: Vec<u8>,
    /// Never more than so many.
    most: usize,
    /// What the allowance has granted.
    granted: usize,
    allowance: Arc<A>,
}

impl<A: Allowance> Buffer<A> {
    pub(super) const fn new(most: usize, allowance: Arc<A>) -> Self {
        Self {
            bytes: Vec::new(),
            most,
            granted: 0,
            allowance,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A piece of what follows the first `place` bytes; absent where nothing does.
    pub(super) fn after(&self, place: usize) -> Option<Bytes> {
        let rest = self.bytes.get(place..).filter(|rest| !rest.is_empty())?;
        let piece = rest.get(..PIECE).unwrap_or(rest);
        Some(Bytes::copy_from_slice(piece))
    }

    /// Adds bytes, if they are within the bound and the allowance.
    pub(super) fn add(&mut self, bytes: &[u8]) -> bool {
        let length = self.bytes.len().saturating_add(bytes.len());
        let is_kept = length <= self.most && self.reserve(length);
        if is_kept {
            self.bytes.extend_from_slice(bytes);
        }
        is_kept
    }

    /// Makes room for `length` bytes in all.
    fn reserve(&mut self, length: usize) -> bool {
        if length <= self.granted {
            return true;
        }
        let wanted = length.max(self.granted * 2).max(LEAST).min(self.most);
        if !self.allowance.take(wanted - self.granted) {
            return false;
        }
        self.granted = wanted;
        self.bytes.reserve_exact(wanted - self.bytes.len());
        true
    }

    /// Lets go of all of it.
    pub(super) fn clear(&mut self) {
        self.bytes = Vec::new();
        self.allowance.give(self.granted);
        self.granted = 0;
    }
}

impl<A: Allowance> Drop for Buffer<A> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// That of its workload.
impl Allowance for Connection {
    fn take(&self, bytes: usize) -> bool {
        self.caller.permit.take(bytes)
    }

    fn give(&self, bytes: usize) {
        self.caller.permit.give(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What is left.
    #[derive(Debug)]
    struct Left(AtomicUsize);

    impl Allowance for Left {
        fn take(&self, bytes: usize) -> bool {
            let take = |left: usize| left.checked_sub(bytes);
            let ordering = Ordering::Relaxed;
            self.0.fetch_update(ordering, ordering, take).is_ok()
        }

        fn give(&self, bytes: usize) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn left(bytes: usize) -> Arc<Left> {
        Arc::new(Left(AtomicUsize::new(bytes)))
    }

    #[test]
    fn bytes_that_come_one_by_one_take_no_more_room_than_others() {
        let left = left(1 << 20);
        let mut buffer = Buffer::new(65_536, Arc::clone(&left));
        for number in 0..60_000_u32 {
            assert!(buffer.add(&number.to_le_bytes()[..1]));
        }
        assert_eq!(buffer.bytes.capacity(), 65_536);
        assert_eq!(left.0.load(Ordering::Relaxed), (1 << 20) - 65_536);
        let mut read = 0;
        while let Some(piece) = buffer.after(read) {
            assert!(piece.len() <= PIECE);
            assert_eq!(piece[0], read.to_le_bytes()[0]);
            read += piece.len();
        }
        assert_eq!(read, 60_000);
        drop(buffer);
        assert_eq!(left.0.load(Ordering::Relaxed), 1 << 20);
    }

    #[test]
    fn what_is_beyond_the_bound_or_the_allowance_is_not_kept() {
        let left = left(3000);
        let mut buffer = Buffer::new(100, Arc::clone(&left));
        assert!(buffer.add(&[0; 100]) && !buffer.add(&[0]));
        assert_eq!(
            left.0.load(Ordering::Relaxed),
            2900,
            "no more than may come"
        );
        buffer.clear();
        assert_eq!(left.0.load(Ordering::Relaxed), 3000);
        let mut buffer = Buffer::new(65_536, Arc::clone(&left));
        assert!(buffer.add(&[0; 2000]) && !buffer.add(&[0; 2000]));
        assert_eq!((buffer.len(), left.0.load(Ordering::Relaxed)), (2000, 1000));
    }
}

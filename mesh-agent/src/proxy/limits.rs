//! What one workload, and all of them, may hold: connections and bytes in buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::config::Limits;
use super::error::Error;
use crate::net::copy::Allowance;

/// What is held at the moment, by one workload or by all.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    connections: AtomicUsize,
    buffered: AtomicUsize,
}

impl Usage {
    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Bytes set aside for buffers.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }
}

fn take(count: &AtomicUsize, more: usize, limit: usize) -> bool {
    let taken = count
        .fetch_add(more, Ordering::Relaxed)
        .saturating_add(more)
        <= limit;
    if !taken {
        count.fetch_sub(more, Ordering::Relaxed);
    }
    taken
}

/// The right to one connection, and the buffers set aside for it. Given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    /// Bytes in buffers for all workloads, and for this one.
    buffered_bytes: [usize; 2],
    all: Arc<Usage>,
    workload: Arc<Usage>,
    reserved: AtomicUsize,
}

impl Permit {
    /// Admits one more connection of a workload, or says that there are too many.
    pub(crate) fn admit(
        limits: &Limits,
        all: &Arc<Usage>,
        workload: &Arc<Usage>,
    ) -> Result<Self, Error> {
        if !take(&all.connections, 1, limits.connections) {
            return Err(Error::ConnectionLimit);
        }
        if !take(&workload.connections, 1, limits.workload_connections) {
            all.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::ConnectionLimit);
        }
        Ok(Self {
            buffered_bytes: [limits.buffered_bytes, limits.workload_buffered_bytes],
            all: Arc::clone(all),
            workload: Arc::clone(workload),
            reserved: AtomicUsize::new(0),
        })
    }

    /// Sets `bytes` aside for as long as the connection lives.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<(), Error> {
        if !self.take(bytes) {
            return Err(Error::BufferLimit);
        }
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The same for what is only better to have: while less than half of everything is taken.
    pub(crate) fn reserve_spare(&self, bytes: usize) -> bool {
        let [of_all, of_workload] = self.buffered_bytes;
        let is_spare = |usage: &Usage, limit| usage.buffered().saturating_add(bytes) <= limit / 2;
        is_spare(&self.all, of_all)
            && is_spare(&self.workload, of_workload)
            && self.reserve(bytes).is_ok()
    }
}

impl Allowance for Permit {
    fn take(&self, bytes: usize) -> bool {
        let [of_all, of_workload] = self.buffered_bytes;
        if !take(&self.all.buffered, bytes, of_all) {
            return false;
        }
        let taken = take(&self.workload.buffered, bytes, of_workload);
        if !taken {
            self.all.buffered.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    fn give(&self, bytes: usize) {
        self.all.buffered.fetch_sub(bytes, Ordering::Relaxed);
        self.workload.buffered.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give(self.reserved.load(Ordering::Relaxed));
        self.all.connections.fetch_sub(1, Ordering::Relaxed);
        self.workload.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Permit, Usage};
    use crate::net::copy::Allowance as _;
    use crate::proxy::config::Limits;

    const LIMITS: Limits = Limits {
        connections: 3,
        workload_connections: 2,
        buffered_bytes: 100,
        workload_buffered_bytes: 60,
        header_bytes: 0,
        idle_connections: 0,
        requests: 0,
        workload_requests: 0,
        queued_requests: 0,
    };

    #[test]
    fn one_workload_cannot_take_what_belongs_to_others() {
        let all = Arc::new(Usage::default());
        let (greedy, modest) = (Arc::new(Usage::default()), Arc::new(Usage::default()));
        let admit = |workload| Permit::admit(&LIMITS, &all, workload);
        let _first = admit(&greedy).expect("the first");
        let _second = admit(&greedy).expect("the second");
        assert!(admit(&greedy).is_err());
        let other = admit(&modest).expect("another workload");
        assert!(admit(&modest).is_err(), "the node is full");
        drop(other);
        assert_eq!((all.connections(), modest.connections()), (2, 0));
    }

    #[test]
    fn buffers_are_bounded_and_given_back() {
        let all = Arc::new(Usage::default());
        let workload = Arc::new(Usage::default());
        let permit = Permit::admit(&LIMITS, &all, &workload).expect("room");
        permit.reserve(40).expect("room");
        assert!(permit.take(20) && !permit.take(1));
        permit.give(20);
        drop(permit);
        assert_eq!((all.buffered(), workload.buffered()), (0, 0));
    }
}

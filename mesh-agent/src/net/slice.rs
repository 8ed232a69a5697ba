//! How long a thread runs at a time where several want one processor.

use std::io;
use std::time::Duration;

/// The shortest that the kernel gives.
const SHORTEST: Duration = Duration::from_micros(100);

/// Asks for the shortest turns for the calling thread. It gets no more of the processor for it, but what it asks for
/// sooner, also from a thread that has just begun a longer turn: right for a thread that seldom has much to do and that
/// somebody waits for. From Linux 6.12 on (`sched_runtime`, Documentation/scheduler/sched-eevdf.rst); before that the
/// kernel takes the wish and does nothing. A thread with a policy of its own, of real time for instance, keeps it.
pub fn shorten() -> io::Result<()> {
    let mut wish = of(0)?;
    if i32::try_from(wish.sched_policy) != Ok(libc::SCHED_OTHER) {
        return Ok(());
    }
    wish.sched_runtime = u64::try_from(SHORTEST.as_nanos()).unwrap_or(0);
    // SAFETY: reads `wish`, which says its size itself; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What holds for a thread; 0 is the calling one.
fn of(thread: libc::pid_t) -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>();
    let mut found = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: `found` is a valid place for as many bytes as are asked for.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, thread, &raw mut found, size, 0) };
    if result == 0 {
        Ok(found)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether a thread has asked for the shortest turns. `None` before Linux 6.12, which tells of none.
#[cfg(test)]
pub fn is_short(thread: libc::pid_t) -> io::Result<Option<bool>> {
    let found = Duration::from_nanos(of(thread)?.sched_runtime);
    Ok((!found.is_zero()).then_some(found == SHORTEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_the_shortest_slice_and_keeps_the_rest() {
        let before = of(0).expect("the kernel tells");
        shorten().expect("needs no privilege");
        assert_ne!(is_short(0).expect("the kernel tells"), Some(false));
        let after = of(0).expect("the kernel tells");
        assert_eq!(
            (after.sched_policy, after.sched_nice),
            (before.sched_policy, before.sched_nice)
        );
    }
}

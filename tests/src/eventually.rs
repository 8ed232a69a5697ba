//! Waits for what must become so, with a deadline; never for a fixed time.

use std::time::{Duration, Instant};

/// How long a test waits where it has no better number.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until there is something, or panics with what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        pause(INTERVAL);
    }
}

/// Looks until the deadline, and whether it became so.
pub fn becomes(deadline: Duration, mut look: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if look() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        pause(INTERVAL);
    }
}

/// Between two looks at something outside this process.
#[expect(
    clippy::disallowed_methods,
    reason = "polls another process; no runtime is blocked"
)]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Asserts that a condition becomes true within ten seconds, or within the given time.
#[macro_export]
macro_rules! assert_eventually {
    ($condition:expr $(,)?) => {
        $crate::assert_eventually!($condition, $crate::eventually::DEADLINE)
    };
    ($condition:expr, $deadline:expr $(,)?) => {
        assert!(
            $crate::eventually::becomes($deadline, || $condition),
            "not within {:?}: {}",
            $deadline,
            stringify!($condition)
        )
    };
}

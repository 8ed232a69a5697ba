//! The clocks that the agent shares with the kernel and with its readers.

use std::time::Duration;

/// Nanoseconds on the monotonic clock, as kernel programs read it with `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid place for the answer; the call has no other effect.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    if result != 0 {
        return 0;
    }
    let seconds = Duration::from_secs(now.tv_sec.try_into().unwrap_or(0));
    let nanoseconds = Duration::from_nanos(now.tv_nsec.try_into().unwrap_or(0));
    (seconds + nanoseconds)
        .as_nanos()
        .try_into()
        .unwrap_or(u64::MAX)
}

/// The time of day, for people: RFC 3339 with microseconds.
#[must_use]
pub fn timestamp() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// The time of day so long ago, as [`timestamp`] has it.
#[must_use]
pub fn timestamp_before(age: Duration) -> String {
    let age = jiff::SignedDuration::try_from(age).unwrap_or(jiff::SignedDuration::ZERO);
    let then = jiff::Timestamp::now().checked_sub(age);
    format!("{:.6}", then.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// The time of day for HTTP: RFC 9110, 5.6.7.
#[must_use]
pub fn http_date() -> String {
    let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
    let printed = printer.timestamp_to_rfc9110_string(&jiff::Timestamp::now());
    printed.unwrap_or_default()
}

/// Seconds since 1970, for what clients keep.
#[must_use]
pub fn unix_seconds() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_monotonic_clock_runs_forwards() {
        let first = super::monotonic_ns();
        assert!(first > 0);
        assert!(super::monotonic_ns() >= first);
    }

    #[test]
    fn a_date_of_http_has_its_fixed_length() {
        let date = super::http_date();
        assert_eq!((date.len(), date.ends_with(" GMT")), (29, true), "{date}");
    }

    #[test]
    fn a_timestamp_is_rfc_3339() {
        let text = super::timestamp();
        assert!(
            text.ends_with('Z') && text.contains('T') && text.contains('.'),
            "{text}"
        );
    }
}

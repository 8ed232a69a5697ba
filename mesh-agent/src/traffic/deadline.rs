//! By when a request must have ended, and how gRPC says so.
//!
//! `grpc-timeout` is an integer of at most eight digits and a unit
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

/// Units of `grpc-timeout`, the finest first, in nanoseconds.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// The largest number that eight digits hold.
const LARGEST: u128 = 99_999_999;

/// Reads a `grpc-timeout`; `None` for what is none.
#[must_use]
pub fn parse_grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let (_, nanos) = UNITS.iter().find(|(name, _)| name == unit)?;
    let total = u128::from(number) * nanos;
    // 584 years are as good as for ever.
    Some(Duration::from_nanos(
        u64::try_from(total).unwrap_or(u64::MAX),
    ))
}

/// Writes a `grpc-timeout` in the finest unit that has room, rounded down: the endpoint must not have more time than is
/// left.
#[must_use]
pub fn format_grpc(time: Duration) -> String {
    let nanos = time.as_nanos();
    let fits = UNITS.iter().find(|(_, unit)| nanos / unit <= LARGEST);
    let (name, unit) = fits.copied().unwrap_or((b'H', 3_600_000_000_000));
    format!("{}{}", (nanos / unit).min(LARGEST), char::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_grpc_is_digits_and_a_unit() {
        let check = |text: &str, wanted| assert_eq!(parse_grpc(text.as_bytes()), wanted, "{text}");
        check("1H", Some(Duration::from_hours(1)));
        check("2M", Some(Duration::from_mins(2)));
        check("10S", Some(Duration::from_secs(10)));
        check("250m", Some(Duration::from_millis(250)));
        check("7u", Some(Duration::from_micros(7)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("0S", Some(Duration::ZERO));
        for bad in ["", "S", "10", "10s", "-1S", "1.5S", "123456789S", " 1S"] {
            check(bad, None);
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_never_longer() {
        for nanos in [
            0,
            1,
            99_999_999,
            100_000_000,
            1_234_567_891,
            123_456_789_123,
            u64::MAX,
        ] {
            let time = Duration::from_nanos(nanos);
            let text = format_grpc(time);
            assert!(text.len() <= 9, "{text}");
            let again = parse_grpc(text.as_bytes()).unwrap();
            assert!(again <= time, "{text} for {time:?}");
            assert!(
                time.as_nanos() - again.as_nanos() <= time.as_nanos() / 10_000,
                "{text}"
            );
        }
        assert_eq!(format_grpc(Duration::from_secs(1)), "1000000u");
    }
}

//! A length of time as the Gateway API writes it (GEP-2257): `1h30m`, `10s`, `250ms`.

use std::fmt;
use std::str::FromStr;
use std::time;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A length of time: one to four numbers of at most five digits, each with a unit `h`, `m`, `s` or `ms`; less than 100000
/// hours together, so that it can be written in the same way.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "250ms")]
pub struct Duration(time::Duration);

impl Duration {
    /// A length of time of so many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(time::Duration::from_millis(millis))
    }

    /// A length of time of so many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(time::Duration::from_secs(seconds))
    }

    /// As the standard library has it.
    #[must_use]
    pub const fn get(self) -> time::Duration {
        self.0
    }

    /// In nanoseconds; it always fits.
    #[must_use]
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether it is no time at all.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

/// Why a text is no length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a duration such as 1h30m, 10s or 250ms is expected: one to four numbers of at most 5 digits with units h, m, s, ms, less than 100000h together"
)]
pub struct ParseError;

impl FromStr for Duration {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut rest = text;
        let mut millis = 0_u64;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(ParseError)?;
            let (number, after) = rest.split_at_checked(digits).ok_or(ParseError)?;
            if !(1..=5).contains(&number.len()) {
                return Err(ParseError);
            }
            let (factor, after) = UNITS
                .iter()
                .find_map(|(unit, factor)| Some((*factor, after.strip_prefix(unit)?)))
                .ok_or(ParseError)?;
            let number: u64 = number.parse().ok().ok_or(ParseError)?;
            millis = millis.saturating_add(number.saturating_mul(factor));
            parts += 1;
            rest = after;
        }
        if (1..=4).contains(&parts) && millis <= MAX_MILLIS {
            Ok(Self::from_millis(millis))
        } else {
            Err(ParseError)
        }
    }
}

impl TryFrom<String> for Duration {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            let number = rest / factor;
            rest %= factor;
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

/// `99999h59m59s999ms`: what is longer has more than five digits of hours.
const MAX_MILLIS: u64 = 100_000 * 3_600_000 - 1;

/// Units in milliseconds; `ms` before `m`, of which it is no number of minutes.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Duration, MAX_MILLIS};

    #[test]
    fn what_the_gateway_api_writes_is_read_and_written_back() {
        for (text, millis, canonical) in [
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("10s", 10_000, "10s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90s", 90_000, "1m30s"),
            ("1h2m3s4ms", 3_723_004, "1h2m3s4ms"),
        ] {
            let read: Duration = text.parse().unwrap();
            assert_eq!(read, Duration::from_millis(millis), "{text}");
            assert_eq!(read.to_string(), canonical);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "1d",
            "123456s",
            "1s1s1s1s1s",
            "1 s",
            "1S",
            "99999h60m",
            "99999h99999h",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_is_read_and_written_back() {
        let longest = "99999h59m59s999ms";
        let read: Duration = longest.parse().unwrap();
        assert_eq!(read, Duration::from_millis(MAX_MILLIS));
        assert_eq!(read.to_string(), longest);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_is_read_again(
            text in "([0-9]{1,5}(h|m|s|ms)){1,4}"
        ) {
            if let Ok(read) = text.parse::<Duration>() {
                prop_assert_eq!(read.to_string().parse(), Ok(read));
            }
        }
    }
}

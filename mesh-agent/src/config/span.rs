//! A length of time as people write it: `250ms`, `30s`, `1m30s`, `1h`. The form of the Gateway API.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

/// A length of time, as written in a flag or the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Text that is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use numbers with h, m, s or ms, for example 250ms, 30s or 1m30s")]
pub struct ParseSpanError;

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit());
            let (number, tail) = rest.split_at(digits.ok_or(ParseSpanError)?);
            let end = tail.find(|c: char| c.is_ascii_digit());
            let (unit, tail) = tail.split_at(end.unwrap_or(tail.len()));
            let number: u32 = number.parse().ok().ok_or(ParseSpanError)?;
            let unit = unit_named(unit).ok_or(ParseSpanError)?;
            total += unit * number;
            rest = tail;
        }
        // An empty text has no number at all.
        if text.is_empty() {
            return Err(ParseSpanError);
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in UNITS {
            let unit = unit.as_millis();
            if millis >= unit {
                write!(f, "{}{name}", millis / unit)?;
                millis %= unit;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| de::Error::custom(format!("{text:?} is no length of time: {error}")))
    }
}

/// Writes a length of time in the form of the file.
pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Span(*value))
}

fn unit_named(name: &str) -> Option<Duration> {
    let (_, unit) = UNITS.into_iter().find(|(other, _)| *other == name)?;
    Some(unit)
}

const UNITS: [(&str, Duration); 4] = [
    ("h", Duration::from_hours(1)),
    ("m", Duration::from_mins(1)),
    ("s", Duration::from_secs(1)),
    ("ms", Duration::from_millis(1)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood_and_written_back() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.0.as_millis(), millis, "{text}");
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        for text in ["", "30", "s", "1.5s", "-1s", "1d", "99999999999s", "1s2"] {
            assert_eq!(text.parse::<Span>(), Err(ParseSpanError), "{text}");
        }
    }
}

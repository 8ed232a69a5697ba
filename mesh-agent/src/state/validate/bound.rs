//! Bounds on numbers, lists and texts, with the field that breaks them.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::state::Refusal;
use crate::state::duration::Duration;

/// A number within a range.
pub(super) fn within<T: PartialOrd + Display>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), Refusal> {
    if range.contains(&value) {
        return Ok(());
    }
    let (low, high) = range.into_inner();
    Err(Refusal::invalid(
        field,
        format!("{low} to {high}, not {value}"),
    ))
}

/// The same where an absent one stands for `default`, which need not suit the other fields: who has not written it is
/// told where it comes from.
pub(super) fn within_or_default<T: PartialOrd + Display + Copy>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
    default: T,
) -> Result<(), Refusal> {
    within(field, value, range).map_err(|refusal| match refusal {
        Refusal::Invalid { message, .. } if value == default => Refusal::invalid(
            field,
            format!("{message}, which holds where nothing is written"),
        ),
        other => other,
    })
}

/// The same where there is a number.
pub(super) fn within_if<T: PartialOrd + Display>(
    field: &str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<(), Refusal> {
    value.map_or(Ok(()), |value| within(field, value, range))
}

/// A length of time within a range.
pub(super) fn time(
    field: &str,
    value: Duration,
    range: RangeInclusive<Duration>,
) -> Result<(), Refusal> {
    within(field, value, range)
}

/// A list of at most `most` items.
pub(super) fn at_most<T>(field: &str, items: &[T], most: usize) -> Result<(), Refusal> {
    if items.len() <= most {
        return Ok(());
    }
    let count = items.len();
    Err(Refusal::invalid(
        field,
        format!("at most {most} items, not {count}"),
    ))
}

/// A text of `bytes` bytes.
pub(super) fn length(field: &str, text: &str, bytes: RangeInclusive<usize>) -> Result<(), Refusal> {
    if bytes.contains(&text.len()) {
        return Ok(());
    }
    let (low, high) = bytes.into_inner();
    Err(Refusal::invalid(
        field,
        format!("{low} to {high} bytes, not {}", text.len()),
    ))
}

/// Exactly one of the fields below `field` is given; each is named with whether it is.
pub(super) fn exactly_one(field: &str, given: &[(&str, bool)]) -> Result<(), Refusal> {
    let mut found = given.iter().filter(|(_, is_given)| *is_given);
    let names = || {
        let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    };
    if found.next().is_none() {
        return Err(Refusal::invalid(
            field,
            format!("one of {} is needed", names()),
        ));
    }
    match found.next() {
        None => Ok(()),
        Some((second, _)) => Err(Refusal::invalid(
            format!("{field}.{second}"),
            format!("only one of {}", names()),
        )),
    }
}

/// The first item that is there twice, by its place.
pub(super) fn repeated<T: Ord>(items: impl IntoIterator<Item = T>) -> Option<usize> {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().position(|item| !seen.insert(item))
}

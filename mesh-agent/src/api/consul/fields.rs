//! Bodies as clients of Consul write them: names in any case, with or without underscores; times as text or
//! nanoseconds.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::failure::Failure;
use crate::state::duration::Duration;

/// The fields of an object that nobody has asked for yet.
pub(super) struct Fields {
    /// Where the object stands in the body, for messages.
    place: String,
    left: BTreeMap<String, (String, Value)>,
}

impl Fields {
    /// Takes an object apart.
    pub(super) fn of(place: &str, value: Value) -> Result<Self, Failure> {
        let Value::Object(object) = value else {
            let place = if place.is_empty() { "the body" } else { place };
            return Err(Failure::bad(format!("{place} must be a JSON object")));
        };
        let left = object
            .into_iter()
            .map(|(name, value)| (plain(&name), (name, value)));
        Ok(Self {
            place: place.to_owned(),
            left: left.collect(),
        })
    }

    /// A value, unless it is absent or empty.
    fn take(&mut self, name: &str) -> Option<Value> {
        let (_, value) = self.left.remove(&plain(name))?;
        (!is_empty(&value)).then_some(value)
    }

    /// Passes over fields that change nothing here.
    pub(super) fn skip(&mut self, names: &[&str]) {
        for name in names {
            self.left.remove(&plain(name));
        }
    }

    /// Refuses what nobody has asked for: nothing is ignored.
    pub(super) fn end(self) -> Result<(), Failure> {
        let mut left = self.left.values();
        match left.find(|(_, value)| !is_empty(value)) {
            Some((name, _)) => {
                let place = self.place;
                Err(Failure::bad(format!("{place}{name} is not supported")))
            }
            None => Ok(()),
        }
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a text")),
        }
    }

    /// A number.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => {
                let number = value.as_u64().and_then(|it| T::try_from(it).ok());
                number.map(Some).ok_or_else(|| self.wrong(name, "a number"))
            }
        }
    }

    /// Yes or no; absent: no.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Failure> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// A length of time.
    pub(super) fn time(&mut self, name: &str) -> Result<Option<Duration>, Failure> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let time = match &value {
            Value::String(text) => duration(text),
            other => other
                .as_u64()
                .map(|nanos| Duration::from_millis(nanos / 1_000_000)),
        };
        let wrong = || self.wrong(name, "a time such as 10s");
        time.map(Some).ok_or_else(wrong)
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, Failure> {
        let Some(value) = self.take(name) else {
            return Ok(Vec::new());
        };
        serde_json::from_value(value).map_err(|_not| self.wrong(name, "a list of texts"))
    }

    /// Names and texts.
    pub(super) fn map(&mut self, name: &str) -> Result<BTreeMap<String, String>, Failure> {
        let Some(value) = self.take(name) else {
            return Ok(BTreeMap::new());
        };
        serde_json::from_value(value).map_err(|_not| self.wrong(name, "names and texts"))
    }

    /// An object or anything else, as it is.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.take(name)
    }

    /// An object of fields.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Self>, Failure> {
        let place = format!("{}{name}.", self.place);
        self.take(name)
            .map(|value| Self::of(&place, value))
            .transpose()
    }

    /// Objects of fields.
    pub(super) fn objects(&mut self, name: &str) -> Result<Vec<Self>, Failure> {
        let place = format!("{}{name}.", self.place);
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let items = items.into_iter().filter(|it| !is_empty(it));
                items.map(|item| Self::of(&place, item)).collect()
            }
            Some(_) => Err(self.wrong(name, "a list")),
        }
    }

    fn wrong(&self, name: &str, wanted: &str) -> Failure {
        Failure::bad(format!("{}{name} must be {wanted}", self.place))
    }
}

/// A length of time as Go writes it, without fractions of a millisecond.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut millis = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(end)?;
        let number: f64 = number.parse().ok()?;
        let (factor, after) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((*factor, after.strip_prefix(unit)?)))?;
        millis += number * factor;
        rest = after;
    }
    if text.trim().is_empty() {
        return None;
    }
    let time = std::time::Duration::try_from_secs_f64(millis / 1000.0).ok()?;
    u64::try_from(time.as_millis())
        .ok()
        .map(Duration::from_millis)
}

/// Units in milliseconds; those that begin with another one's letter come first.
const UNITS: [(&str, f64); 7] = [
    ("ms", 1.0),
    ("ns", 1e-6),
    ("us", 1e-3),
    ("\u{b5}s", 1e-3),
    ("h", 3_600_000.0),
    ("m", 60_000.0),
    ("s", 1000.0),
];

/// A name without case and underscores.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|it| *it != '_');
    letters.map(|it| it.to_ascii_lowercase()).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => Map::is_empty(object),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_nothing_is_ignored() {
        let body = json!({"ServiceID": "a", "enable_tag_override": false, "Odd": 1, "TTL": "10s", "interval": 5_000_000_000_u64});
        let mut fields = Fields::of("", body).ok().unwrap();
        assert_eq!(
            fields.text("service_id").ok().unwrap().as_deref(),
            Some("a")
        );
        assert_eq!(
            fields.time("ttl").ok().unwrap(),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            fields.time("Interval").ok().unwrap(),
            Some(Duration::from_secs(5))
        );
        let failure = fields.end().err().unwrap();
        assert_eq!(failure.text, "Odd is not supported");
    }

    #[test]
    fn times_are_those_of_go() {
        let millis = |text: &str| duration(text).map(|it| it.get().as_millis());
        assert_eq!(millis("10s"), Some(10_000));
        assert_eq!(millis("1.5s"), Some(1500));
        assert_eq!(millis("1h30m"), Some(5_400_000));
        assert_eq!(millis("250ms"), Some(250));
        for wrong in ["", "10", "s", "-1s", "1x", "1.2.3s"] {
            assert_eq!(millis(wrong), None, "{wrong}");
        }
    }
}

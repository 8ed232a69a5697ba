//! What a Consul client asks for in the query of a request.

use std::time::Duration;

use axum::http::StatusCode;

use super::failure::Failure;
use super::fields;
use super::filter::Filter;

/// Longest wait of a blocking query, and the usual one, as in Consul.
const LONGEST: Duration = Duration::from_mins(10);
const USUAL: Duration = Duration::from_mins(5);

/// The query of a request.
#[derive(Debug, Default)]
pub(super) struct Question {
    pairs: Vec<(String, String)>,
    /// The namespace.
    pub(super) namespace: String,
    /// Wait until the index is higher than this ..
    pub(super) index: Option<u64>,
    /// .. but no longer.
    pub(super) wait: Duration,
    /// Which items are wanted.
    pub(super) filter: Option<Filter>,
}

impl Question {
    /// Reads a query. `namespace` is meant where it names none.
    pub(super) fn read(pairs: Vec<(String, String)>, namespace: &str) -> Result<Self, Failure> {
        let mut question = Self {
            pairs,
            namespace: namespace.to_owned(),
            wait: USUAL,
            ..Self::default()
        };
        let refused = question.pairs.iter().find(|it| !is_known(it));
        if let Some((name, _)) = refused {
            return Err(Failure::bad(format!("{name} is not supported")));
        }
        if let Some(given) = question.text("ns") {
            question.namespace = given.to_owned();
        }
        if let Some(dc) = question.text("dc").filter(|it| *it != DATACENTER) {
            let text = format!("No path to datacenter {dc:?}: there is only {DATACENTER}");
            return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        if let Some(text) = question.text("index") {
            let index = text.parse().map_err(|_not| Failure::bad("Invalid index"))?;
            // Zero is what is known before the first answer.
            question.index = Some(index).filter(|it| *it > 0);
        }
        if let Some(text) = question.text("wait") {
            let wait = fields::duration(text).ok_or_else(|| Failure::bad("Invalid wait time"))?;
            question.wait = wait.get().min(LONGEST);
        }
        question.filter = question.text("filter").map(Filter::parse).transpose()?;
        Ok(question)
    }

    /// The value of a name.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let mut pairs = self.pairs.iter();
        let (_, value) = pairs.find(|(key, value)| key == name && !value.is_empty())?;
        Some(value)
    }

    /// All values of a name.
    pub(super) fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.pairs.iter().filter(move |(key, _)| key == name);
        pairs.map(|(_, value)| value.as_str())
    }

    /// Whether a name is there, and does not say no.
    pub(super) fn flag(&self, name: &str) -> bool {
        let is_no = |value: &str| matches!(value, "false" | "False" | "0");
        self.pairs
            .iter()
            .any(|(key, value)| key == name && !is_no(value))
    }

    /// What tells answers apart: the query without what says only how long to wait.
    pub(super) fn identity(&self) -> String {
        let mut pairs: Vec<&(String, String)> = self
            .pairs
            .iter()
            .filter(|(key, _)| !WITHOUT_EFFECT.contains(&key.as_str()))
            .collect();
        pairs.sort();
        format!("{} {pairs:?}", self.namespace)
    }
}

/// The one datacenter that there is.
pub(super) const DATACENTER: &str = "dc1";

/// Whether there is what a pair of the query asks for. Nothing is ignored: an answer would be another than was wanted.
fn is_known((name, value): &(String, String)) -> bool {
    let (name, value) = (name.as_str(), value.as_str());
    let is_fixed = FIXED.iter().any(|(known, values)| {
        let is_value = value.is_empty() || values.contains(&value);
        *known == name && is_value
    });
    is_fixed || KNOWN.contains(&name) || WITHOUT_EFFECT.contains(&name)
}

/// Names that may have any value.
const KNOWN: [&str; 17] = [
    "acquire",
    "cas",
    "dc",
    "enable",
    "filter",
    "flags",
    "keys",
    "near",
    "note",
    "passing",
    "raw",
    "reason",
    "recurse",
    "release",
    "replace-existing-checks",
    "separator",
    "tag",
];

/// Names of what there is one of or none: the values that say so, beside no value.
const FIXED: [(&str, &[&str]); 6] = [
    ("ap", &["default"]),
    ("format", &["json", "prometheus"]),
    ("node-meta", &[]),
    ("partition", &["default"]),
    ("peer", &[]),
    ("sg", &[]),
];

/// Names that do not change what is answered.
const WITHOUT_EFFECT: [&str; 9] = [
    "index",
    "wait",
    "stale",
    "consistent",
    "cached",
    "token",
    "merge-central-config",
    "pretty",
    "ns",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Question, String> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Question::read(pairs.collect(), "default").map_err(|it| it.text)
    }

    #[test]
    fn waits_are_bounded() {
        let wait = |text: &str| read(&[("wait", text)]).map(|it| it.wait.as_secs());
        assert_eq!(wait("10s"), Ok(10));
        assert_eq!(wait("1h"), Ok(600));
        assert_eq!(read(&[]).unwrap().wait.as_secs(), 300);
        assert!(wait("soon").is_err());
        assert!(read(&[("index", "-1")]).is_err());
        assert_eq!(read(&[("index", "0")]).unwrap().index, None);
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (name, value) in [
            ("node-meta", "rack:1"),
            ("peer", "other"),
            ("partition", "red"),
            ("sg", "all"),
            ("format", "text"),
            ("passnig", ""),
        ] {
            let refused = read(&[(name, value)]).unwrap_err();
            assert_eq!(refused, format!("{name} is not supported"));
        }
        for (name, value) in [
            ("peer", ""),
            ("ap", "default"),
            ("merge-central-config", "1"),
        ] {
            assert!(read(&[(name, value)]).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_same_question_is_known_again() {
        let first = read(&[("passing", "1"), ("tag", "a"), ("index", "7")]).unwrap();
        let second = read(&[("tag", "a"), ("stale", ""), ("passing", "1")]).unwrap();
        assert_eq!(first.identity(), second.identity());
        let third = read(&[("tag", "b"), ("passing", "1")]).unwrap();
        assert_ne!(first.identity(), third.identity());
        let other = read(&[("tag", "a"), ("passing", "1"), ("ns", "shop")]).unwrap();
        assert_ne!(first.identity(), other.identity());
        assert!(!read(&[("passing", "false")]).unwrap().flag("passing"));
        assert!(read(&[("passing", "")]).unwrap().flag("passing"));
        assert!(read(&[("dc", "dc2")]).is_err());
    }
}

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

/// Names that do not change what is answered.
const WITHOUT_EFFECT: [&str; 8] = [
    "index",
    "wait",
    "stale",
    "consistent",
    "cached",
    "token",
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

//! A line of the access log: a JSON object, put together from parts of which some stay the same.

use std::sync::OnceLock;

use serde::Serialize;

/// Room for most lines, so that they need not grow.
const USUAL: usize = 1024;

/// A line that is being written.
#[derive(Debug)]
pub(crate) struct LineText(Vec<u8>);

/// Members of lines that are the same every time, kept as they are written.
#[derive(Debug, Default)]
pub(crate) struct Known(OnceLock<Box<[u8]>>);

impl LineText {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(USUAL))
    }

    /// Adds the members of a struct of texts, numbers and nothing else.
    pub(crate) fn add(&mut self, members: &impl Serialize) {
        append(&mut self.0, members);
    }

    /// Adds members that are written once only.
    pub(crate) fn add_known<M: Serialize>(&mut self, known: &Known, members: impl FnOnce() -> M) {
        let write = || {
            let mut text = Vec::new();
            append(&mut text, &members());
            text.into()
        };
        self.0.extend_from_slice(known.0.get_or_init(write));
    }

    /// The line, without its end.
    pub(crate) fn into_json(mut self) -> Vec<u8> {
        self.0.push(b'}');
        if let Some(comma) = self.0.first_mut() {
            *comma = b'{';
        }
        self.0
    }
}

/// Writes members, a comma before each.
fn append(text: &mut Vec<u8>, members: &impl Serialize) {
    let start = text.len();
    // Texts and numbers: there is nothing that could fail.
    drop(serde_json::to_writer(&mut *text, members));
    text.pop();
    if let Some(brace) = text.get_mut(start) {
        *brace = b',';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Text<'a> {
        text: &'a str,
    }

    #[derive(Serialize)]
    struct Numbers {
        first: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        second: Option<u8>,
    }

    #[test]
    fn parts_become_one_object() {
        let known = Known::default();
        let write = |second, text| {
            let mut line = LineText::new();
            line.add(&Numbers { first: 1, second });
            line.add_known(&known, || Text { text });
            line.add(&Numbers { first: 3, second });
            String::from_utf8(line.into_json()).unwrap()
        };
        let line = write(Some(2), "a \"quote\"");
        let expected = r#"{"first":1,"second":2,"text":"a \"quote\"","first":3,"second":2}"#;
        assert_eq!(line, expected);
        let again = write(None, "no longer asked for");
        assert_eq!(again, r#"{"first":1,"text":"a \"quote\"","first":3}"#);
    }
}

//! Text with objects: YAML with one or more documents, or JSON, or lists of objects; each with its line.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::object::{Kind, ObjectKey};
use super::{Manifest, Refusal, decode};

/// Most bytes of a text that is read: hundreds of thousands of objects.
pub const MAX_BYTES: u64 = 64 << 20;

/// A text that is no YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// Where, counted from 1.
    pub line: u64,
    /// What is wrong there.
    pub message: String,
}

/// An object as somebody wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where it begins, counted from 1.
    pub line: u64,
    /// What is there.
    pub object: Value,
}

/// What a document is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its kind.
    pub kind: Kind,
    /// Its key.
    pub key: ObjectKey,
}

/// The objects of a text, with what is in lists in their place.
pub fn parse(text: &str) -> Result<Vec<Document>, ParseError> {
    let read = serde_saphyr::from_multiple_with_options(text, options());
    let documents: Vec<Spanned<Value>> = read.map_err(|error| {
        // The place is said once, by whoever knows the file too.
        let message = error.without_snippet().to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        ParseError {
            line: error.location().map_or(1, |location| location.line()),
            message: message.to_owned(),
        }
    })?;
    let mut lines = item_lines(text).into_iter();
    let mut objects = Vec::new();
    for document in documents {
        let line = document.referenced.line();
        let mut object = document.value;
        let lines = lines.next().unwrap_or_default();
        match object.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => {
                let lines = lines.into_iter().chain(std::iter::repeat(line));
                objects.extend(
                    lines
                        .zip(items)
                        .map(|(line, object)| Document { line, object }),
                );
            }
            _ => objects.push(Document { line, object }),
        }
    }
    Ok(objects)
}

/// As many objects as fit into [`MAX_BYTES`]. What a short text may grow to by anchors stays bounded.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1 << 20,
            max_nodes: 1 << 25,
            max_events: 1 << 26,
        },
    }
}

/// Where the items of lists begin, per document. Nothing where one of the documents has another shape.
fn item_lines(text: &str) -> Vec<Vec<u64>> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        items: Vec<Spanned<IgnoredAny>>,
    }
    let lists = serde_saphyr::from_multiple_with_options(text, options());
    let lists: Vec<List> = lists.unwrap_or_default();
    let lines = |list: List| list.items.iter().map(|it| it.referenced.line()).collect();
    lists.into_iter().map(lines).collect()
}

impl Document {
    /// What the document is about; where it names no namespace, that is `namespace`, and is written into it.
    pub fn subject(&mut self, namespace: &str) -> Result<Subject, String> {
        let kind = self.object.get("kind").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| "it has no kind".to_owned())?;
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or_else(|| format!("kind {kind} is not supported by this version"))?;
        let metadata = self
            .object
            .get_mut("metadata")
            .and_then(Value::as_object_mut)
            .ok_or_else(|| "it has no metadata".to_owned())?;
        let name = metadata.get("name").and_then(Value::as_str);
        let name = name
            .ok_or_else(|| "it has no metadata.name".to_owned())?
            .to_owned();
        let namespace = metadata
            .entry("namespace")
            .or_insert_with(|| namespace.into())
            .as_str()
            .ok_or_else(|| "metadata.namespace is no text".to_owned())?;
        Ok(Subject {
            kind,
            key: ObjectKey::new(namespace, name),
        })
    }

    /// The object, once its subject is known. What another registry says of its version is dropped: it means nothing here.
    pub fn manifest(mut self, subject: &Subject) -> Result<Manifest, Refusal> {
        let metadata = self.object.get_mut("metadata");
        if let Some(metadata) = metadata.and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        decode::manifest(subject.kind, &subject.key, self.object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_document_has_its_line_and_subject() {
        let text = "\
# two objects
kind: Service
metadata: {name: web, namespace: shop}
---
# and another
kind: HTTPRoute
metadata: {name: only}
---
# nothing
";
        let mut documents = parsed(text).expect("it is right");
        let lines: Vec<u64> = documents.iter().map(|it| it.line).collect();
        assert_eq!(lines, [2, 6]);
        let subjects: Vec<_> = documents
            .iter_mut()
            .map(|it| it.subject("other").expect("it is right"))
            .collect();
        assert_eq!(subjects[0].key, ObjectKey::new("shop", "web"));
        assert_eq!(subjects[1].kind, Kind::HttpRoute);
        assert_eq!(subjects[1].key, ObjectKey::new("other", "only"));
        assert_eq!(documents[1].object["metadata"]["namespace"], "other");
    }

    #[test]
    fn json_and_lists_are_read_too() {
        let text = r#"{"kind": "List", "items": [
            {"kind": "Workload", "metadata": {"name": "a"}},
            {"kind": "Endpoint", "metadata": {"name": "b"}}]}"#;
        let lines: Vec<u64> = parsed(text)
            .expect("it is right")
            .iter()
            .map(|it| it.line)
            .collect();
        assert_eq!(lines, [2, 3]);
        assert_eq!(parsed("").expect("it is empty"), []);
    }

    #[test]
    fn a_large_registry_fits_into_a_file() {
        let text = "---\nkind: Service\nmetadata: {name: web}\n".repeat(3_000);
        assert_eq!(parsed(&text).expect("it is right").len(), 3_000);
        let items = r#"{"kind": "Endpoint", "metadata": {"name": "b", "namespace": "shop"}},"#;
        let list = format!(r#"{{"kind": "List", "items": [{}]}}"#, items.repeat(40_000));
        assert_eq!(parsed(&list).expect("it is right").len(), 40_000);
    }

    #[test]
    fn what_is_no_object_is_named() {
        let check = |text: &str, wanted: &str| {
            let mut documents = parsed(text).expect("it is YAML");
            let said = documents[0].subject("other").unwrap_err();
            assert_eq!(said, wanted, "{text}");
        };
        check("kind: Service\n", "it has no metadata");
        check("metadata: {name: a}\n", "it has no kind");
        check("- just\n- a list\n", "it has no kind");
        check("kind: Service\nmetadata: {}\n", "it has no metadata.name");
        check(
            "kind: Gateway\nmetadata: {name: a}\n",
            "kind Gateway is not supported by this version",
        );
        let error = parsed("kind: Service\nmetadata: [\n").unwrap_err();
        assert!(error.line >= 2 && !error.message.is_empty(), "{error:?}");
    }

    fn parsed(text: &str) -> Result<Vec<Document>, ParseError> {
        parse(text)
    }
}

//! Text with objects: YAML with one or more documents, or JSON, or lists of objects; each with its line.

use std::collections::BTreeMap;

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

/// The objects of a text, with what is in lists in their place. A document that cannot be read hides no other; after
/// one that is no YAML nobody knows where the next begins.
pub fn parse(text: &str) -> Vec<Result<Document, ParseError>> {
    let mut bytes = text.as_bytes();
    let documents = serde_saphyr::read_with_options(&mut bytes, options());
    let mut item_lines = item_lines(text);
    let mut objects = Vec::new();
    for document in documents {
        let document: Spanned<Value> = match document {
            Ok(document) => document,
            Err(error) => {
                objects.push(Err(parse_error(&error)));
                continue;
            }
        };
        let line = document.referenced.line();
        match items(document.value) {
            Ok(items) => {
                let lines = item_lines.remove(&line).unwrap_or_default();
                let lines = lines.into_iter().chain(std::iter::repeat(line));
                let items = lines.zip(items);
                objects.extend(items.map(|(line, object)| Ok(Document { line, object })));
            }
            Err(object) => objects.push(Ok(Document { line, object })),
        }
    }
    objects
}

/// What is in a list, or the object that is none. A list has a kind that ends in `List`; those that the agent's API
/// answers have no kind, and nothing that an object has.
fn items(mut object: Value) -> Result<Vec<Value>, Value> {
    let is_list = match object.get("kind") {
        Some(kind) => kind.as_str().is_some_and(|kind| kind.ends_with("List")),
        None => object.get("spec").is_none() && object.pointer("/metadata/name").is_none(),
    };
    match object.get_mut("items") {
        Some(Value::Array(items)) if is_list => Ok(std::mem::take(items)),
        _ => Err(object),
    }
}

fn parse_error(error: &serde_saphyr::Error) -> ParseError {
    ParseError {
        line: error.location().map_or(1, |location| location.line()),
        message: fault(error),
    }
}

/// What is wrong with a YAML text, for who has written it. The place is said by whoever knows the file too.
pub fn fault(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error.without_snippet() {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{key}: the key is there twice")
        }
        Error::DuplicateMappingKey { key: None, .. } => "a key is there twice".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias stands inside of what it stands for".to_owned()
        }
        other => {
            let message = other.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message);
            message.to_owned()
        }
    }
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

/// Where the items of lists begin, by the line of their document. Nothing of documents that have another shape.
fn item_lines(text: &str) -> BTreeMap<u64, Vec<u64>> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        items: Vec<Spanned<IgnoredAny>>,
    }
    let mut bytes = text.as_bytes();
    let lists = serde_saphyr::read_with_options(&mut bytes, options());
    let lists = lists.filter_map(|list: Result<Spanned<List>, _>| list.ok());
    let lines = |list: List| list.items.iter().map(|it| it.referenced.line()).collect();
    lists
        .map(|list| (list.referenced.line(), lines(list.value)))
        .collect()
}

impl Document {
    /// What the document is about; where it names no namespace, that is `namespace`, and is written into it.
    pub fn subject(&mut self, namespace: &str) -> Result<Subject, String> {
        let kind = self.object.get("kind").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| "it has no kind".to_owned())?;
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or_else(|| unknown_kind(kind))?;
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

fn unknown_kind(kind: &str) -> String {
    let mut known = Kind::ALL.into_iter();
    if let Some(meant) = known.find(|it| it.name().eq_ignore_ascii_case(kind)) {
        return format!("kind {kind} is spelled {meant}");
    }
    let known = Kind::ALL.map(Kind::name).join(", ");
    format!("kind {kind} is not supported by this version; it has {known}")
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
            "kind Gateway is not supported by this version; it has Service, Endpoint, Workload, AuthorizationPolicy, \
             HTTPRoute, GRPCRoute, TCPRoute, TLSRoute, ReferenceGrant, TrafficPolicy",
        );
        check(
            "kind: HttpRoute\nmetadata: {name: a}\n",
            "kind HttpRoute is spelled HTTPRoute",
        );
        let error = parsed("kind: Service\nmetadata: [\n").unwrap_err();
        assert!(error.line >= 2 && !error.message.is_empty(), "{error:?}");
    }

    #[test]
    fn document_that_cannot_be_read_hides_no_other() {
        let text = "kind: A\n---\nkind: B\nkind: B\n---\nkind: C\n---\na: &a [*a]\n---\nkind: [\n";
        let said: Vec<_> = parse(text)
            .into_iter()
            .map(|it| match it {
                Ok(document) => (document.line, document.object["kind"].to_string()),
                Err(error) => (error.line, error.message),
            })
            .collect();
        let lines: Vec<u64> = said.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines[..4], [1, 4, 6, 8], "{said:?}");
        assert_eq!(said[1].1, "kind: the key is there twice");
        assert_eq!(said[3].1, "an alias stands inside of what it stands for");
        assert_eq!(said.len(), 5, "{said:?}");
    }

    #[test]
    fn only_lists_are_unpacked() {
        let keys = |text: &str| -> Vec<String> {
            let documents = parsed(text).expect("it is right");
            documents.iter().map(|it| it.object.to_string()).collect()
        };
        let service = "kind: Service\nmetadata: {name: web}\nitems: []\n";
        assert_eq!(keys(service).len(), 1);
        assert!(keys(service)[0].contains("items"), "{:?}", keys(service));
        assert_eq!(keys("metadata: {name: web}\nitems: []\n").len(), 1);
        assert_eq!(keys("spec: {}\nitems: []\n").len(), 1);
        assert_eq!(keys("kind: HTTPRouteList\nitems: [{}, {}]\n").len(), 2);
        let answered = "metadata: {resourceVersion: '4'}\nitems: [{}]\n";
        assert_eq!(keys(answered), ["{}"]);
    }

    fn parsed(text: &str) -> Result<Vec<Document>, ParseError> {
        parse(text).into_iter().collect()
    }
}

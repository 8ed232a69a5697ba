//! `validate`: judges files offline, by the code that judges objects in the agent.
//!
//! Every object is read and checked alone; then all of them meet in a registry that is forgotten afterwards, so that
//! what they say of each other is judged too. A reference to nothing is a remark: the object may be elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::document::{self, Document, Subject};
use super::exit::Exit;
use super::show::structured;
use super::{Error, print};
use crate::config::cli::{Output, Validate};
use crate::state::object::{ConditionStatus, Kind, ObjectKey};
use crate::state::{Change, Manifest, Refusal, Store};

/// What is said of one object.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Judgement {
    file: PathBuf,
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    ok: bool,
    /// The field that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// What is wrong with it, or what is remarkable.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// The answer as JSON or YAML.
#[derive(Serialize)]
struct Report {
    items: Vec<Judgement>,
}

/// Judges all files, and says what came of it: one line per object.
pub(super) fn validate(validate: &Validate) -> Result<Exit, Error> {
    let mut bench = Bench::new();
    for file in &validate.files {
        for document in document::read(file)? {
            bench.judge(file.clone(), document, &validate.namespace);
        }
    }
    let judgements = bench.finish();
    let is_fine = judgements.iter().all(|it| it.ok);
    match validate.output {
        Output::Table => {
            let lines: Vec<String> = judgements.iter().map(Judgement::line).collect();
            print(&lines.join("\n"))?;
        }
        output => print(&structured(&Report { items: judgements }, output)?)?,
    }
    Ok(if is_fine { Exit::OK } else { Exit::DATA })
}

/// A registry that lives for one command.
struct Bench {
    store: Store,
    judgements: Vec<Judgement>,
    /// Where each object was, by its place in `judgements`.
    seen: BTreeMap<(Kind, ObjectKey), usize>,
}

impl Bench {
    fn new() -> Self {
        Self {
            store: Store::in_memory(),
            judgements: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    fn judge(&mut self, file: PathBuf, mut document: Document, namespace: &str) {
        let mut judgement = Judgement {
            file,
            line: document.line,
            kind: None,
            namespace: None,
            name: None,
            ok: false,
            field: None,
            message: None,
        };
        match document.subject(namespace) {
            Err(message) => judgement.message = Some(message),
            Ok(subject) => {
                judgement.kind = Some(subject.kind);
                judgement.namespace = Some(subject.key.namespace.clone());
                judgement.name = Some(subject.key.name.clone());
                match self.put(&subject, document) {
                    Ok(()) => {
                        judgement.ok = true;
                        let place = self.judgements.len();
                        self.seen.insert((subject.kind, subject.key), place);
                    }
                    Err(Refusal::Invalid { field, message, .. }) => {
                        judgement.field = Some(field).filter(|field| !field.is_empty());
                        judgement.message = Some(message);
                    }
                    Err(other) => judgement.message = Some(other.to_string()),
                }
            }
        }
        self.judgements.push(judgement);
    }

    fn put(&self, subject: &Subject, document: Document) -> Result<(), Refusal> {
        if let Some(before) = self.seen.get(&(subject.kind, subject.key.clone())) {
            let place = self.judgements.get(*before).map(Judgement::place);
            let message = format!("is there already, at {}", place.unwrap_or_default());
            return Err(Refusal::invalid("metadata.name", message));
        }
        let manifest = document.manifest(subject)?;
        self.store.apply(Change::Put(manifest)).map(drop)
    }

    /// Adds to objects that are right what they are missing.
    fn finish(mut self) -> Vec<Judgement> {
        let snapshot = self.store.snapshot();
        for ((kind, key), place) in &self.seen {
            let object = snapshot.object(*kind, key);
            let conditions = object.iter().flat_map(Manifest::conditions);
            let remarks: Vec<String> = conditions
                .filter(|it| it.status != ConditionStatus::True)
                .map(|it| format!("{} is False, {}: {}", it.kind, it.reason, it.message))
                .collect();
            if let Some(judgement) = self.judgements.get_mut(*place)
                && !remarks.is_empty()
            {
                judgement.message = Some(remarks.join("; "));
            }
        }
        self.judgements
    }
}

impl Judgement {
    fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }

    /// `FILE:LINE: KIND NAMESPACE/NAME: ok`, or what is wrong instead of `ok`.
    fn line(&self) -> String {
        let mut parts = vec![self.place()];
        if let (Some(kind), Some(namespace), Some(name)) = (self.kind, &self.namespace, &self.name)
        {
            parts.push(format!("{kind} {namespace}/{name}"));
        }
        let message = self.message.as_deref().unwrap_or_default();
        parts.push(match (self.ok, &self.field, message) {
            (true, _, "") => "ok".to_owned(),
            (true, _, remark) => format!("ok, but {remark}"),
            (false, Some(field), message) => format!("{field}: {message}"),
            (false, None, message) => message.to_owned(),
        });
        parts.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let mut bench = Bench::new();
        let file = Path::new("mesh.yaml");
        for document in document::parse(file, text).expect("it is YAML") {
            bench.judge(file.to_owned(), document, "shop");
        }
        bench.finish().iter().map(Judgement::line).collect()
    }

    const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, resourceVersion: '7'}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

    #[test]
    fn an_object_that_refers_to_a_later_one_is_right() {
        let service =
            "kind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n";
        assert_eq!(
            lines(&format!("{ROUTE}---\n{service}")),
            [
                "mesh.yaml:1: HTTPRoute shop/web: ok",
                "mesh.yaml:8: Service shop/web: ok"
            ]
        );
    }

    #[test]
    fn a_reference_to_nothing_is_a_remark() {
        let said = lines(ROUTE);
        let said = said.first().expect("one object");
        assert!(
            said.starts_with("mesh.yaml:1: HTTPRoute shop/web: ok, but Accepted is False"),
            "{said}"
        );
        assert!(said.contains("BackendNotFound"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field_and_the_rest_goes_on() {
        let bad = ROUTE
            .replace("port: 80", "prot: 80")
            .replace("name: web,", "name: bad,");
        let gateway = "kind: Gateway\nmetadata: {name: a}\n";
        let said = lines(&format!("{bad}---\n{gateway}---\n{ROUTE}---\n{ROUTE}"));
        assert_eq!(said.len(), 4);
        assert!(
            said[0].starts_with(
                "mesh.yaml:1: HTTPRoute shop/bad: spec.rules[0].backendRefs[0].prot: "
            ),
            "{}",
            said[0]
        );
        assert_eq!(
            said[1],
            "mesh.yaml:8: kind Gateway is not supported by this version"
        );
        assert!(
            said[2].starts_with("mesh.yaml:11: HTTPRoute shop/web: ok"),
            "{}",
            said[2]
        );
        assert!(
            said[3].contains("metadata.name: is there already, at mesh.yaml:11"),
            "{}",
            said[3]
        );
    }
}

//! `validate`: judges files offline, by the code that judges objects in the agent.
//!
//! Every object is read and checked alone; then all of them meet in a registry that is forgotten afterwards, so that
//! what they say of each other is judged too. A reference to nothing is a remark: the object may be elsewhere. With
//! `--strict` everything is here, and what is remarkable is wrong.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::document::{self, Document, Read, Subject};
use super::exit::Exit;
use super::show::structured;
use super::{Error, print, remark};
use crate::config::cli::{Output, Validate};
use crate::state::object::{Kind, ObjectKey};
use crate::state::{Change, Refusal, Store};
use crate::telemetry::one_line;

/// What is said of one object, or of a whole file.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Judgement {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
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
    let mut bench = Bench::new(&validate.namespace);
    let mut unread = None;
    for file in &validate.files {
        match document::read(file) {
            Ok(documents) => bench.judge_file(file, documents),
            Err(error) => {
                bench.note(file, false, complaint(&error));
                unread = unread.or_else(|| Some(error.exit()));
            }
        }
    }
    let judgements = bench.finish(validate.is_strict);
    // A file that cannot be read is worse than an object that is wrong: nobody knows what is in it.
    let exit = match unread {
        Some(exit) => exit,
        None if judgements.iter().all(|it| it.ok) => Exit::OK,
        None => Exit::DATA,
    };
    match validate.output {
        Output::Table => {
            let lines: Vec<String> = judgements.iter().map(Judgement::line).collect();
            print(&lines.join("\n"))?;
        }
        output => print(&structured(&Report { items: judgements }, output)?)?,
    }
    Ok(exit)
}

/// A registry that lives for one command.
struct Bench<'a> {
    /// Of objects that name none.
    namespace: &'a str,
    store: Store,
    judgements: Vec<Judgement>,
    /// Where each object was, by its place in `judgements`.
    seen: BTreeMap<(Kind, ObjectKey), usize>,
}

impl<'a> Bench<'a> {
    fn new(namespace: &'a str) -> Self {
        Self {
            namespace,
            store: Store::in_memory(),
            judgements: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    fn judge_file(&mut self, file: &Path, documents: Vec<Read>) {
        if documents.is_empty() {
            self.note(file, true, "no objects".to_owned());
        }
        for document in documents {
            self.judge(file, document);
        }
    }

    /// Says something of a whole file.
    fn note(&mut self, file: &Path, ok: bool, message: String) {
        self.judgements.push(Judgement {
            file: file.display().to_string(),
            ok,
            message: Some(message),
            ..Judgement::default()
        });
    }

    fn judge(&mut self, file: &Path, document: Read) {
        let line = match &document {
            Ok(document) => document.line,
            Err(error) => error.line,
        };
        let mut judgement = Judgement {
            file: file.display().to_string(),
            line: Some(line),
            ..Judgement::default()
        };
        match document {
            Err(error) => judgement.message = Some(error.message),
            Ok(document) => self.judge_object(document, &mut judgement),
        }
        self.judgements.push(judgement);
    }

    fn judge_object(&mut self, mut document: Document, judgement: &mut Judgement) {
        match document.subject(self.namespace) {
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

    /// Adds to objects that are right what they are missing, which `is_strict` takes for wrong.
    fn finish(mut self, is_strict: bool) -> Vec<Judgement> {
        let snapshot = self.store.snapshot();
        for ((kind, key), place) in &self.seen {
            let object = snapshot.object(*kind, key);
            if let Some(judgement) = self.judgements.get_mut(*place)
                && let Some(remark) = object.as_ref().and_then(remark::of)
            {
                judgement.ok = !is_strict;
                judgement.message = Some(remark);
            }
        }
        self.judgements
    }
}

impl Judgement {
    fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.clone(),
        }
    }

    /// `FILE:LINE: KIND NAMESPACE/NAME: ok`, or what is wrong instead of `ok`; of a whole file `FILE: MESSAGE`. One line,
    /// whatever somebody wrote into the file.
    fn line(&self) -> String {
        let mut parts = vec![self.place()];
        if let (Some(kind), Some(namespace), Some(name)) = (self.kind, &self.namespace, &self.name)
        {
            parts.push(format!("{kind} {namespace}/{name}"));
        }
        let message = self.message.as_deref().unwrap_or_default();
        parts.push(match (self.ok, &self.field, message) {
            (true, _, "") => "ok".to_owned(),
            (true, _, message) if self.line.is_none() => message.to_owned(),
            (true, _, remark) => format!("ok, but {remark}"),
            (false, Some(field), message) => format!("{field}: {message}"),
            (false, None, message) => message.to_owned(),
        });
        one_line(&parts.join(": ")).into_owned()
    }
}

/// Why a file cannot be read, without its name.
fn complaint(error: &Error) -> String {
    let reason = std::error::Error::source(error).map(ToString::to_string);
    format!("cannot read it: {}", reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::document::parse;

    fn lines(text: &str) -> Vec<String> {
        judged(text, false).iter().map(Judgement::line).collect()
    }

    fn judged(text: &str, is_strict: bool) -> Vec<Judgement> {
        let mut bench = Bench::new("shop");
        bench.judge_file(Path::new("mesh.yaml"), parse(text));
        bench.finish(is_strict)
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
    fn what_is_remarkable_is_wrong_where_everything_must_be_there() {
        let judged = judged(ROUTE, true);
        assert!(!judged[0].ok);
        let said = judged[0].line();
        assert!(
            said.starts_with("mesh.yaml:1: HTTPRoute shop/web: Accepted is False"),
            "{said}"
        );
    }

    #[test]
    fn route_that_some_parents_take_says_which_do_not() {
        let service =
            "kind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n";
        let two = "parentRefs: [{group: '', kind: Service, name: nope}, ";
        let route = ROUTE.replace("parentRefs: [", two);
        assert_eq!(
            lines(&format!("{route}---\n{service}"))[0],
            "mesh.yaml:1: HTTPRoute shop/web: ok, but spec.parentRefs[0]: there is no Service shop/nope"
        );
    }

    #[test]
    fn each_object_has_one_line_whatever_is_in_it() {
        let forged = "kind: \"x\\e[31mRED\\nForged: it is fine\"\n";
        let expression = ROUTE.replace(
            "{backendRefs:",
            "{matches: [{path: {type: RegularExpression, value: \"(\"}}], backendRefs:",
        );
        let said = lines(&format!("{forged}---\n{expression}"));
        for line in &said {
            assert!(!line.contains(char::is_control), "{line:?}");
        }
        assert!(said[1].ends_with("unclosed group"), "{}", said[1]);
    }

    #[test]
    fn what_cannot_be_read_hides_nothing_and_no_objects_are_said() {
        let said = lines("kind: A\nkind: B\n---\nkind: C\n");
        assert_eq!(said[0], "mesh.yaml:2: kind: the key is there twice");
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(lines("# nothing\n"), ["mesh.yaml: no objects"]);
        let validate = Validate {
            files: vec!["/nowhere/a.yaml".into(), "/nowhere/b.yaml".into()],
            namespace: "shop".to_owned(),
            is_strict: false,
            output: Output::Table,
        };
        assert_eq!(
            super::validate(&validate).expect("both are told"),
            Exit::NO_INPUT
        );
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
        assert!(
            said[1].starts_with("mesh.yaml:8: kind Gateway is not supported by this version"),
            "{}",
            said[1]
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

//! From the contents of files to what has to be put and removed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::look::Contents;
use crate::state::document::{self, Document, ParseError, Subject};
use crate::state::object::{Kind, ObjectKey};
use crate::state::report::RejectionReport;
use crate::state::{Change, Manifest, Origin, Refusal, Snapshot, Source};

/// Namespace of objects that name none.
const NAMESPACE: &str = "default";

/// An object that is to be in force.
#[derive(Clone, Debug)]
pub(super) struct Put {
    file: String,
    line: u64,
    manifest: Manifest,
}

/// Something that is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rejection {
    /// Name of the file.
    pub(super) file: String,
    /// Line in it, counted from 1.
    pub(super) line: u64,
    /// Kind and key, where they can be told.
    pub(super) object: String,
    /// What is wrong.
    pub(super) message: String,
}

/// What has to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) removals: Vec<Change>,
    pub(super) puts: Vec<Put>,
    pub(super) rejections: Vec<Rejection>,
}

/// Compares what the files say with what the registry has of them. Files come in the order of their names; of an object
/// that is there twice the first is meant.
pub(super) fn plan<'a>(
    files: impl Iterator<Item = (&'a str, &'a Contents)>,
    snapshot: &Snapshot,
) -> Plan {
    let mut plan = Plan::default();
    let mut seen = Seen::default();
    for (file, contents) in files {
        plan.read(file, contents, &mut seen);
    }
    for object in snapshot.manifests() {
        let metadata = object.metadata();
        if metadata.source != Source::Files
            || seen.objects.contains_key(&(object.kind(), object.key()))
            || seen.holding.contains(&metadata.origin)
        {
            continue;
        }
        plan.removals.push(Change::Delete {
            kind: object.kind(),
            key: object.key(),
            resource_version: None,
        });
    }
    plan
}

/// What the files were found to hold.
#[derive(Default)]
struct Seen {
    /// Every object that can be told, with its place.
    objects: BTreeMap<(Kind, ObjectKey), String>,
    /// Files that hold something that cannot be told: whatever came from them may still be there.
    holding: BTreeSet<String>,
}

impl Plan {
    fn read(&mut self, file: &str, contents: &Contents, seen: &mut Seen) {
        let documents = match contents {
            Contents::Text(text) => document::parse(text),
            Contents::Unreadable(reason) => vec![Err(ParseError {
                line: 1,
                message: reason.clone(),
            })],
            Contents::Unread => {
                seen.holding.insert(file.to_owned());
                return;
            }
        };
        for document in documents {
            match document {
                Ok(document) => self.judge(file, document, seen),
                Err(error) => {
                    seen.holding.insert(file.to_owned());
                    self.rejections.push(Rejection {
                        file: file.to_owned(),
                        line: error.line,
                        object: String::new(),
                        message: error.message,
                    });
                }
            }
        }
    }

    fn judge(&mut self, file: &str, mut document: Document, seen: &mut Seen) {
        let line = document.line;
        let mut rejection = Rejection {
            file: file.to_owned(),
            line,
            object: String::new(),
            message: String::new(),
        };
        let subject = match document.subject(NAMESPACE) {
            Ok(subject) => subject,
            Err(message) => {
                seen.holding.insert(file.to_owned());
                rejection.message = message;
                self.rejections.push(rejection);
                return;
            }
        };
        rejection.object = named(&subject);
        let name = (subject.kind, subject.key.clone());
        if let Some(place) = seen.objects.get(&name) {
            rejection.message = format!("metadata.name: is there already, at {place}");
            self.rejections.push(rejection);
            return;
        }
        seen.objects.insert(name, rejection.place());
        match document.manifest(&subject) {
            Ok(manifest) => self.puts.push(Put {
                file: file.to_owned(),
                line,
                manifest,
            }),
            Err(refusal) => {
                rejection.message = refusal.to_string();
                self.rejections.push(rejection);
            }
        }
    }
}

fn named(subject: &Subject) -> String {
    format!("{} {}", subject.kind, subject.key)
}

impl Put {
    /// As the store takes it.
    pub(super) fn change(&self) -> (Origin, Change) {
        let origin = Origin {
            source: Source::Files,
            place: self.file.clone(),
        };
        (origin, Change::Put(self.manifest.clone()))
    }

    /// As it is told when the store refuses it.
    pub(super) fn rejected(&self, refusal: &Refusal) -> Rejection {
        Rejection {
            file: self.file.clone(),
            line: self.line,
            object: format!("{} {}", self.manifest.kind(), self.manifest.key()),
            message: refusal.to_string(),
        }
    }
}

impl Rejection {
    /// `FILE:LINE`.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// As the status shows it.
    pub(super) fn report(&self) -> RejectionReport {
        RejectionReport {
            place: self.place(),
            object: self.object.clone(),
            message: self.message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Store;

    fn text(text: &str) -> Contents {
        Contents::Text(text.to_owned())
    }

    const WEB: &str =
        "kind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n";

    /// A store that has taken the files over once.
    fn store(files: &[(&str, &Contents)]) -> Store {
        let store = Store::in_memory();
        let plan = plan(files.iter().copied(), &store.snapshot());
        for result in store.apply_all(plan.puts.iter().map(Put::change)) {
            result.expect("it is right");
        }
        store
    }

    #[test]
    fn each_object_is_taken_or_refused_alone_with_its_place() {
        let bad = WEB
            .replace("name: web", "name: bad")
            .replace("port: 80", "prot: 80");
        let both = text(&format!("{bad}---\n{WEB}"));

        let plan = plan([("a.yaml", &both)].into_iter(), &Snapshot::default());

        assert_eq!(plan.puts.len(), 1);
        let said = plan.rejections.first().expect("one is refused");
        assert_eq!(said.place(), "a.yaml:1");
        assert_eq!(said.object, "Service default/bad");
        assert!(
            said.message.starts_with("spec.ports[0].prot"),
            "{}",
            said.message
        );
    }

    #[test]
    fn object_that_is_gone_from_its_file_is_removed() {
        let full = text(WEB);
        let store = store(&[("a.yaml", &full)]);

        let plan = plan([("a.yaml", &text(""))].into_iter(), &store.snapshot());

        assert_eq!(plan.removals.len(), 1);
        assert!(plan.rejections.is_empty());
    }

    #[test]
    fn file_that_cannot_be_told_keeps_its_objects_and_only_its_own() {
        let next = text(&WEB.replace("name: web", "name: next"));
        let full = text(WEB);
        let store = store(&[("a.yaml", &full), ("b.yaml", &next)]);
        for broken in [
            text("kind: Service\nmetadata: [\n"),
            text("metadata: {name: web}\n"),
            Contents::Unreadable("permission denied".to_owned()),
        ] {
            let files = [("a.yaml", &broken)];

            let plan = plan(files.into_iter(), &store.snapshot());

            assert_eq!(plan.rejections.len(), 1, "{broken:?}");
            let removed: Vec<_> = plan.removals.iter().map(|it| format!("{it:?}")).collect();
            assert_eq!(removed.len(), 1, "{broken:?}");
            assert!(
                removed.iter().all(|it| it.contains("\"next\"")),
                "{removed:?}"
            );
        }
    }

    #[test]
    fn document_that_cannot_be_read_stops_no_other_of_its_file() {
        let next = WEB.replace("name: web", "name: next");
        let both = text(&format!("{WEB}kind: Service\n---\n{next}"));

        let plan = plan([("a.yaml", &both)].into_iter(), &Snapshot::default());

        let names: Vec<_> = plan.puts.iter().map(|it| it.manifest.key().name).collect();
        assert_eq!(names, ["next"]);
        assert_eq!(plan.rejections.len(), 1);
    }

    #[test]
    fn object_that_is_refused_keeps_its_last_good_version() {
        let full = text(WEB);
        let store = store(&[("a.yaml", &full)]);
        let bad = text(&WEB.replace("port: 80", "port: 0x"));

        let plan = plan([("a.yaml", &bad)].into_iter(), &store.snapshot());

        assert_eq!((plan.removals.len(), plan.rejections.len()), (0, 1));
    }

    #[test]
    fn of_an_object_in_two_files_the_first_is_meant() {
        let full = text(WEB);
        let files = [("a.yaml", &full), ("b.yaml", &full)];

        let plan = plan(files.into_iter(), &Snapshot::default());

        assert_eq!(plan.puts.len(), 1);
        let said = plan.rejections.first().expect("the second is refused");
        assert_eq!(said.place(), "b.yaml:1");
        assert!(
            said.message.ends_with("already, at a.yaml:1"),
            "{}",
            said.message
        );
    }
}

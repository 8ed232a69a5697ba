//! Changes: objects from a file, deletions, the level of the log, the drain.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::client::{Client, checked, path_of};
use super::document::{self, Read, Subject};
use super::error::Error;
use super::exit::Exit;
use super::show::manifest;
use super::{complain, note, print, remark};
use crate::config::cli::{Apply, Delete, KindName, LogLevel, Target};
use crate::state::object::{Kind, ObjectKey};
use crate::telemetry::one_line;

/// Applies every object of the file that can be read, also after one that was refused; the code is that of the first
/// refusal.
pub(super) async fn apply(apply: &Apply) -> Result<Exit, Error> {
    let documents = document::read(&apply.file)?;
    if documents.is_empty() {
        note(&format!("{}: no objects", apply.file.display()));
    }
    let client = Client::new(&apply.target)?;
    let mut uploads = Uploads::default();
    let mut remarkable = Vec::new();
    let mut exit = Exit::OK;
    for document in documents {
        let sent = match uploads.next(&apply.file, document, &apply.namespace) {
            Ok(upload) => send(&client, &upload).await.map(|is| (upload, is)),
            Err(error) => Err(error),
        };
        match sent {
            Ok((upload, is_remarkable)) => remarkable.extend(is_remarkable.then_some(upload)),
            Err(error) if error.is_of_one_object() => {
                complain(&error);
                if exit == Exit::OK {
                    exit = error.exit();
                }
            }
            Err(error) => return Err(error),
        }
    }
    tell_remarks(&client, &remarkable).await?;
    Ok(exit)
}

pub(super) async fn delete(delete: &Delete) -> Result<(), Error> {
    let kind = match delete.kind {
        KindName::Service => Kind::Service,
        KindName::Endpoint => Kind::Endpoint,
        KindName::Workload => Kind::Workload,
        KindName::Policy => Kind::AuthorizationPolicy,
        KindName::Httproute => Kind::HttpRoute,
        KindName::Grpcroute => Kind::GrpcRoute,
        KindName::Tcproute => Kind::TcpRoute,
        KindName::Tlsroute => Kind::TlsRoute,
        KindName::Referencegrant => Kind::ReferenceGrant,
        KindName::Trafficpolicy => Kind::TrafficPolicy,
    };
    let path = path_of(kind.plural(), Some(&delete.namespace), Some(&delete.name))?;
    Client::new(&delete.target)?.delete(&path).await?;
    print(&format!(
        "{kind} {}/{} deleted",
        delete.namespace, delete.name
    ))
}

pub(super) async fn log_level(level: &LogLevel) -> Result<(), Error> {
    let client = Client::new(&level.target)?;
    let body = json!({"level": level.level});
    client.put("/api/v1/log-level", &body).await?;
    print(&format!("log level is {}", level.level))
}

pub(super) async fn drain(target: &Target) -> Result<(), Error> {
    Client::new(target)?.post("/api/v1/drain").await?;
    print("the agent drains")
}

/// Where an object goes, and what the user is told it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Upload {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
    /// Kind and key.
    pub(super) label: String,
    /// `FILE:LINE: LABEL`.
    pub(super) place: String,
    pub(super) path: String,
    pub(super) object: Value,
}

/// The objects of a file, each of which is in it once.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// Where each was, by its path.
    seen: BTreeMap<String, String>,
}

impl Uploads {
    /// What becomes of the next document of `file`.
    pub(super) fn next(
        &mut self,
        file: &Path,
        document: Read,
        namespace: &str,
    ) -> Result<Upload, Error> {
        let at = |line: u64| format!("{}:{line}", file.display());
        let mut document = document.map_err(|error| Error::Object {
            place: at(error.line),
            message: error.message,
        })?;
        let at = at(document.line);
        let subject = document.subject(namespace);
        let Subject { kind, key } = subject.map_err(|message| Error::Object {
            place: at.clone(),
            message,
        })?;
        let label = format!("{kind} {key}");
        let place = format!("{at}: {label}");
        let refused = |message: String| Error::Object {
            place: place.clone(),
            message,
        };
        for (field, name) in [("namespace", &key.namespace), ("name", &key.name)] {
            checked(name).map_err(|error| refused(format!("metadata.{field}: {error}")))?;
        }
        let path = path_of(kind.plural(), Some(&key.namespace), Some(&key.name))?;
        if let Some(before) = self.seen.get(&path) {
            let message = format!("metadata.name: is there already, at {before}");
            return Err(refused(message));
        }
        self.seen.insert(path.clone(), at);
        Ok(Upload {
            kind,
            key,
            label,
            place,
            path,
            object: document.object,
        })
    }
}

/// Sends an object, says what came of it, and whether there is something remarkable with it.
pub(super) async fn send(client: &Client, upload: &Upload) -> Result<bool, Error> {
    let sent = client.put_object(&upload.path, &upload.object).await;
    let (is_new, object) = sent.map_err(|error| upload.refused(error))?;
    let word = if is_new { "created" } else { "changed" };
    print(&format!("{} {word}", upload.label))?;
    Ok(remark_on(object).is_some())
}

/// Says what is still remarkable now that everything is there that the objects may refer to.
pub(super) async fn tell_remarks(client: &Client, uploads: &[Upload]) -> Result<(), Error> {
    for upload in uploads {
        let object = match client.get(&upload.path).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        if let Some(text) = remark_on(object) {
            note(&one_line(&format!("{}: {text}", upload.place)));
        }
    }
    Ok(())
}

/// What is remarkable with an object as the agent shows it. Of one that this version cannot read nothing is said.
fn remark_on(object: Value) -> Option<String> {
    remark::of(&manifest(object).ok()?)
}

impl Upload {
    /// Names the object that the agent refuses.
    pub(super) fn refused(&self, error: Error) -> Error {
        match error {
            Error::Refused(problem) => Error::RefusedObject {
                place: self.place.clone(),
                problem,
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::error::Problem;
    use crate::state::document::parse;

    fn uploads(text: &str) -> Result<Vec<Upload>, Error> {
        let file = Path::new("mesh.yaml");
        let mut uploads = Uploads::default();
        let documents = parse(text).into_iter();
        documents
            .map(|it| uploads.next(file, it, "other"))
            .collect()
    }

    #[test]
    fn each_object_goes_to_its_own_path() {
        let text = "\
kind: Service
metadata: {name: web, namespace: shop}
---
kind: HTTPRoute
metadata: {name: only}
";
        let uploads = uploads(text).expect("it is right");
        let paths: Vec<_> = uploads.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces/shop/services/web",
                "/api/v1/namespaces/other/httproutes/only"
            ]
        );
        assert_eq!(uploads[1].label, "HTTPRoute other/only");
    }

    #[test]
    fn what_is_no_object_is_named_with_its_place() {
        let text = "kind: Service\nmetadata: {name: a}\n---\nkind: Gateway\nmetadata: {name: a}\n";
        let error = uploads(text).unwrap_err().to_string();
        let wanted = "mesh.yaml:4: kind Gateway is not supported by this version";
        assert!(error.starts_with(wanted), "{error}");
    }

    #[test]
    fn object_that_cannot_be_sent_is_named_and_is_wrong_alone() {
        for (text, wanted) in [
            (
                "kind: Service\nmetadata: {name: B_AD}\n",
                "mesh.yaml:1: Service other/B_AD: metadata.name: \"B_AD\" is no name",
            ),
            (
                "kind: Service\nmetadata: {name: a, namespace: B}\n",
                "mesh.yaml:1: Service B/a: metadata.namespace: \"B\" is no name",
            ),
            (
                "kind: Service\nmetadata: {name: a}\n---\nkind: Service\nmetadata: {name: a}\n",
                "mesh.yaml:4: Service other/a: metadata.name: is there already, at mesh.yaml:1",
            ),
            (
                "kind: \"x\\e[31m\\nForged: y\"\nmetadata: {name: a}\n",
                "mesh.yaml:1: kind x\\u{1b}[31m\\nForged: y is not",
            ),
        ] {
            let error = uploads(text).unwrap_err();
            assert!(error.to_string().starts_with(wanted), "{error}");
            assert!(error.is_of_one_object());
            assert_eq!(error.exit(), Exit::DATA);
        }
    }

    #[test]
    fn refusal_of_the_agent_names_the_place() {
        let mut uploads = uploads("kind: Service\nmetadata: {name: a}\n").expect("it is right");
        let refused = Problem {
            status: http::StatusCode::UNPROCESSABLE_ENTITY,
            detail: "no\nway".to_owned(),
            field: Some("spec".to_owned()),
        };
        let upload = uploads.remove(0);
        let error = upload.refused(Error::Refused(refused));
        assert_eq!(
            error.to_string(),
            "mesh.yaml:1: Service other/a: the agent refuses (422 Unprocessable Entity): spec: no\\nway"
        );
        assert_eq!(error.exit(), Exit::DATA);
    }

    #[test]
    fn remark_is_taken_from_the_status() {
        let route = |conditions: Value| {
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": "web", "namespace": "shop", "generation": 2},
                "spec": {}, "status": {"conditions": conditions}})
        };
        let condition = |status: &str, message: &str, generation: u64| {
            json!([{"type": "Accepted", "status": status, "reason": "R", "message": message,
                "observedGeneration": generation}])
        };
        for (conditions, wanted) in [
            (condition("True", "", 2), None),
            (condition("False", "x", 2), Some("Accepted is False, R: x")),
            (condition("False", "x", 1), None),
            (
                condition("True", "spec.parentRefs[1]: x", 2),
                Some("spec.parentRefs[1]: x"),
            ),
        ] {
            assert_eq!(remark_on(route(conditions)).as_deref(), wanted);
        }
        assert_eq!(remark_on(json!({"kind": "Later"})), None);
    }
}

//! Changes: objects from a file, deletions, the level of the log, the drain.

use std::path::Path;

use serde_json::{Value, json};

use super::client::{Client, path_of};
use super::document::{self, Document, Subject};
use super::error::Error;
use super::exit::Exit;
use super::{complain, print};
use crate::config::cli::{Apply, Delete, KindName, LogLevel, Target};
use crate::state::object::Kind;

/// Applies every object of the file, also after one that was refused; the code is that of the first refusal. Nothing is
/// sent unless all of them can be read.
pub(super) async fn apply(apply: &Apply) -> Result<Exit, Error> {
    let documents = document::read(&apply.file)?.into_iter();
    let uploads: Result<Vec<Upload>, Error> = documents
        .map(|it| upload(&apply.file, it, &apply.namespace))
        .collect();
    let uploads = uploads?;
    let client = Client::new(&apply.target)?;
    let mut exit = Exit::OK;
    for document in uploads {
        match client.put(&document.path, &document.object).await {
            Ok(true) => print(&format!("{} created", document.label))?,
            Ok(false) => print(&format!("{} changed", document.label))?,
            Err(Error::Refused(problem)) => {
                let error = Error::Object {
                    place: document.label,
                    message: problem.to_string(),
                };
                complain(&error);
                if exit == Exit::OK {
                    exit = Error::Refused(problem).exit();
                }
            }
            Err(error) => return Err(error),
        }
    }
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
#[derive(Debug, PartialEq)]
pub(super) struct Upload {
    pub(super) kind: Kind,
    pub(super) label: String,
    pub(super) path: String,
    pub(super) object: Value,
}

pub(super) fn upload(
    file: &Path,
    mut document: Document,
    namespace: &str,
) -> Result<Upload, Error> {
    let subject = document.subject(namespace).map_err(|message| {
        let place = format!("{}:{}", file.display(), document.line);
        Error::Object { place, message }
    })?;
    let Subject { kind, key } = subject;
    Ok(Upload {
        kind,
        path: path_of(kind.plural(), Some(&key.namespace), Some(&key.name))?,
        label: format!("{kind} {key}"),
        object: document.object,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploads(text: &str) -> Result<Vec<Upload>, Error> {
        let file = Path::new("mesh.yaml");
        let documents = document::parse(file, text)?.into_iter();
        documents.map(|it| upload(file, it, "other")).collect()
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
        assert_eq!(
            error,
            "mesh.yaml:4: kind Gateway is not supported by this version"
        );
    }
}

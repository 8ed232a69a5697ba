//! Changes: objects from a file, deletions, the level of the log, the drain.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde_json::{Value, json};

use super::client::{Client, path_of};
use super::error::Error;
use super::exit::Exit;
use super::{complain, print};
use crate::config::cli::{Apply, Delete, KindName, LogLevel, Target};
use crate::state::object::{API_VERSION, Kind};

/// Applies every object of the file, also after one that was refused; the code is that of the first refusal. Nothing is
/// sent unless all of them can be read.
pub(super) async fn apply(apply: &Apply) -> Result<Exit, Error> {
    let text = read_text(&apply.file).map_err(|source| Error::Read {
        path: apply.file.clone(),
        source,
    })?;
    let documents = parse(&apply.file, &text, &apply.namespace)?;
    let client = Client::new(&apply.target)?;
    let mut exit = Exit::OK;
    for document in documents {
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

#[derive(Debug, PartialEq)]
struct Document {
    /// What the user is told it is.
    label: String,
    /// Where it goes.
    path: String,
    /// What goes there.
    object: Value,
}

/// Reads YAML or JSON (which is YAML) with one or more objects, or lists of them.
fn parse(file: &Path, text: &str, namespace: &str) -> Result<Vec<Document>, Error> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        Error::Object {
            place: format!("{}:{line}", file.display()),
            message: error.without_snippet().to_string(),
        }
    })?;
    let objects = documents.into_iter().flat_map(items_of);
    objects
        .enumerate()
        .map(|(index, object)| {
            let place = format!("{}, object {}", file.display(), index + 1);
            document(object, &place, namespace)
        })
        .collect()
}

/// A `List` is what is in it.
fn items_of(mut document: Value) -> Vec<Value> {
    match document.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => vec![document],
    }
}

fn document(mut object: Value, place: &str, namespace: &str) -> Result<Document, Error> {
    let wrong = |message: String| Error::Object {
        place: place.to_owned(),
        message,
    };
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("it has no kind".to_owned()))?;
    let kind = Kind::ALL
        .into_iter()
        .find(|known| known.to_string() == kind)
        .ok_or_else(|| wrong(format!("kind {kind} is not supported by this version")))?;
    let metadata = object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| wrong("it has no metadata".to_owned()))?;
    let name = metadata.get("name").and_then(Value::as_str);
    let name = name
        .ok_or_else(|| wrong("it has no metadata.name".to_owned()))?
        .to_owned();
    let namespace = metadata
        .entry("namespace")
        .or_insert_with(|| namespace.into())
        .as_str()
        .ok_or_else(|| wrong("metadata.namespace is no text".to_owned()))?
        .to_owned();
    if let Value::Object(fields) = &mut object {
        fields
            .entry("apiVersion")
            .or_insert_with(|| API_VERSION.into());
    }
    Ok(Document {
        label: format!("{kind} {namespace}/{name}"),
        path: path_of(kind.plural(), Some(&namespace), Some(&name))?,
        object,
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        io::stdin().take(MAX_BYTES).read_to_string(&mut text)?;
    } else {
        File::open(path)?
            .take(MAX_BYTES)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}

/// Thousands of objects.
const MAX_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_document_goes_to_its_own_path() {
        let text = "\
apiVersion: mesh.dev/v1alpha1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
kind: AuthorizationPolicy
metadata: {name: only}
---
# nothing
";
        let documents = parsed(text).expect("it is right");
        let paths: Vec<_> = documents
            .iter()
            .map(|document| document.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces/shop/services/web",
                "/api/v1/namespaces/other/authorizationpolicies/only"
            ]
        );
        let policy = documents.last().expect("there are two");
        assert_eq!(policy.object["apiVersion"], API_VERSION);
        assert_eq!(policy.object["metadata"]["namespace"], "other");
        assert_eq!(policy.label, "AuthorizationPolicy other/only");
    }

    #[test]
    fn json_and_lists_are_read_too() {
        let text = r#"{"kind": "List", "items": [{"kind": "Workload", "metadata": {"name": "a"}},
            {"kind": "Endpoint", "metadata": {"name": "b"}}]}"#;
        assert_eq!(parsed(text).expect("it is right").len(), 2);
    }

    #[test]
    fn what_is_no_object_is_named_with_its_place() {
        check("kind: Service\n", "mesh.yaml, object 1: it has no metadata");
        check(
            "metadata: {name: a}\n",
            "mesh.yaml, object 1: it has no kind",
        );
        check(
            "kind: Service\nmetadata: {name: a}\n---\nkind: HTTPRoute\nmetadata: {name: a}\n",
            "mesh.yaml, object 2: kind HTTPRoute is not supported by this version",
        );
        check("kind: [\n", "mesh.yaml:");
        check("- just\n- a list\n", "mesh.yaml, object 1: it has no kind");
    }

    fn check(text: &str, wanted: &str) {
        let error = parsed(text).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }

    fn parsed(text: &str) -> Result<Vec<Document>, Error> {
        parse(Path::new("mesh.yaml"), text, "other")
    }
}

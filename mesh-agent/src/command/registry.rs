//! `registry`: all objects out of an agent into a file, and from a file into an agent.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use serde_json::Value;

use super::apply::{Upload, Uploads, send, tell_remarks};
use super::client::{Client, path_of};
use super::document;
use super::error::Error;
use super::exit::Exit;
use super::{complain, note, print};
use crate::config::cli::{Export, Import};
use crate::state::endpoint::RESOLVED_FOR;
use crate::state::object::Kind;
use crate::state::{Change, Refusal, Store, decode};

/// Writes all objects, as somebody would write them: without what the agent adds.
pub(super) async fn export(export: &Export) -> Result<Exit, Error> {
    let client = Client::new(&export.target)?;
    let mut text = String::new();
    for kind in Kind::ALL {
        let path = path_of(kind.plural(), None, None)?;
        let mut list: Value = client.get(&path).await?;
        let Some(Value::Array(items)) = list.get_mut("items").map(Value::take) else {
            continue;
        };
        for object in items.into_iter().filter(|it| !is_found(it)) {
            text.push_str("---\n");
            text.push_str(&serde_saphyr::to_string(&as_written(object))?);
        }
    }
    match &export.output {
        Some(path) => write(path, &text)?,
        None => print(&text)?,
    }
    Ok(Exit::OK)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let written = match fs::metadata(path) {
        // A pipe, a terminal: nothing that could be kept.
        Ok(there) if !there.is_file() => fs::write(path, text),
        // So it is with an agent whose registry is lost.
        Ok(there) if text.is_empty() && there.len() > 0 => {
            let path = path.to_owned();
            return Err(Error::NothingToExport { path });
        }
        Ok(there) => {
            fs::canonicalize(path).and_then(|path| replace(&path, text, there.permissions()))
        }
        Err(_) => replace(path, text, Permissions::from_mode(0o600)),
    };
    written.map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

/// Writes the file wholly, or leaves it as it is: it may be the last good copy of the registry.
fn replace(path: &Path, text: &str, permissions: Permissions) -> io::Result<()> {
    let mut draft_path = path.as_os_str().to_owned();
    draft_path.push(".new");
    let draft_path = Path::new(&draft_path);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(draft_path)?;
    let written = (|| {
        (&file).write_all(text.as_bytes())?;
        file.set_permissions(permissions)?;
        file.sync_all()?;
        fs::rename(draft_path, path)
    })();
    if written.is_err() {
        // Half of it is worth nothing, and the disk may be full because of it.
        drop(fs::remove_file(draft_path));
    }
    written
}

/// Whether an agent has found the object by itself, and finds it again: the address of a name.
fn is_found(object: &Value) -> bool {
    let annotations = object["metadata"].get("annotations");
    annotations.is_some_and(|it| it.get(RESOLVED_FOR).is_some())
}

/// What people write of an object.
fn as_written(object: Value) -> Value {
    let Value::Object(mut object) = object else {
        return object;
    };
    object.retain(|name, _| ["apiVersion", "kind", "metadata", "spec"].contains(&name.as_str()));
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        let kept = ["name", "namespace", "labels", "annotations"];
        metadata.retain(|name, _| kept.contains(&name.as_str()));
    }
    Value::Object(object)
}

/// Judges every object first, and writes them only if all are right.
pub(super) async fn import(import: &Import) -> Result<Exit, Error> {
    let client = Client::new(&import.target)?;
    let documents = document::read(&import.file)?;
    if documents.is_empty() {
        note(&format!("{}: no objects", import.file.display()));
    }
    let mut exit = None;
    let mut all = Uploads::default();
    let mut uploads = Vec::new();
    for document in documents {
        match all.next(&import.file, document, &import.namespace) {
            Ok(mut it) => {
                forget_version(&mut it.object);
                uploads.push(it);
            }
            Err(error) => exit = exit.or(Some(refuse(error)?)),
        }
    }
    uploads.sort_by_key(|it| it.kind);
    let judged = judge(&client, &uploads).await?;
    if let Some(exit) = exit.or(judged) {
        complain(&Error::NotImported {
            path: import.file.clone(),
        });
        return Ok(exit);
    }
    let mut remarkable = Vec::new();
    for it in uploads {
        if import.dry_run {
            print(&format!("{} is right", it.label))?;
        } else if send(&client, &it).await? {
            remarkable.push(it);
        }
    }
    tell_remarks(&client, &remarkable).await?;
    Ok(Exit::OK)
}

/// Says what is wrong with one object, and gives the code; what is wrong with more than one ends the command.
fn refuse(error: Error) -> Result<Exit, Error> {
    if !error.is_of_one_object() {
        return Err(error);
    }
    complain(&error);
    Ok(error.exit())
}

/// Asks the agent what it thinks of each, and looks whether those that are right alone are right together: two may claim
/// the same. The code of the first refusal, if there is one.
async fn judge(client: &Client, uploads: &[Upload]) -> Result<Option<Exit>, Error> {
    let mut exit = None;
    let others = Store::in_memory();
    for it in uploads {
        let path = format!("{}?dryRun=true", it.path);
        let judged = client.put(&path, &it.object).await;
        let judged = judged.map_err(|error| it.refused(error));
        if let Err(error) = judged.and_then(|_| meet(&others, it)) {
            exit = exit.or(Some(refuse(error)?));
        }
    }
    Ok(exit)
}

/// Puts an object to the `others` of its file, in a registry that is forgotten afterwards.
fn meet(others: &Store, upload: &Upload) -> Result<(), Error> {
    // An agent of another version may know more fields than this command.
    let manifest = decode::manifest(upload.kind, &upload.key, upload.object.clone());
    let Ok(manifest) = manifest else {
        return Ok(());
    };
    match others.apply(Change::Put(manifest)) {
        Err(Refusal::Invalid { field, message, .. }) => Err(Error::Object {
            place: upload.place.clone(),
            message: format!("{field}: {message}"),
        }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A version means something only in the registry that gave it.
fn forget_version(object: &mut Value) {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        metadata.remove("resourceVersion");
        metadata.remove("uid");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_agent_adds_is_left_out() {
        let shown = as_written(json!({
            "apiVersion": "mesh.dev/v1alpha1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop", "labels": {"a": "b"}, "uid": "x", "generation": 1,
                "resourceVersion": "7", "creationTimestamp": "2026-01-02T03:04:05Z", "source": "files", "origin": "a.yaml"},
            "spec": {"ports": []},
            "status": {"addresses": []},
        }));
        assert_eq!(
            shown,
            json!({
                "apiVersion": "mesh.dev/v1alpha1", "kind": "Service",
                "metadata": {"name": "web", "namespace": "shop", "labels": {"a": "b"}},
                "spec": {"ports": []},
            })
        );
    }

    #[test]
    fn export_of_nothing_replaces_no_export_of_something() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        let text = || fs::read_to_string(&path).unwrap();
        write(&path, "").unwrap();
        write(&path, "---\nkind: Service\n").unwrap();
        let error = write(&path, "").unwrap_err();
        assert_eq!(error.exit(), Exit::CANNOT_CREATE);
        assert_eq!(text(), "---\nkind: Service\n");
        write(&path, "---\nkind: Workload\n").unwrap();
        assert_eq!(text(), "---\nkind: Workload\n");
    }

    #[test]
    fn addresses_that_were_found_for_a_name_are_left_out() {
        let object = |annotations: Value| json!({"metadata": {"name": "pay.192-0-2-1", "annotations": annotations}});
        assert!(is_found(&object(json!({RESOLVED_FOR: "pay"}))));
        assert!(!is_found(&object(json!({"note": "mine"}))));
        assert!(!is_found(&json!({"metadata": {"name": "pay"}})));
    }

    #[test]
    fn objects_of_one_file_that_claim_the_same_are_refused() {
        let text = "\
kind: Service
metadata: {name: web, namespace: shop}
spec: {addresses: [240.240.0.1], ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: api, namespace: shop}
spec: {addresses: [240.240.0.1], ports: [{name: http, port: 80}]}
";
        let mut all = Uploads::default();
        let others = Store::in_memory();
        let documents = crate::state::document::parse(text).into_iter();
        let uploads = documents.map(|it| all.next(Path::new("mesh.yaml"), it, "shop").unwrap());
        let met: Vec<_> = uploads.map(|it| meet(&others, &it)).collect();
        assert!(met[0].is_ok());
        let error = met[1].as_ref().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("mesh.yaml:5: Service shop/api: spec.addresses[0]: "),
            "{error}"
        );
        assert_eq!(error.exit(), Exit::DATA);
    }

    #[test]
    fn version_of_another_registry_is_forgotten() {
        let mut object = json!({"metadata": {"name": "web", "resourceVersion": "7", "uid": "x"}});
        forget_version(&mut object);
        assert_eq!(object, json!({"metadata": {"name": "web"}}));
        let mut odd = json!({"metadata": 1});
        forget_version(&mut odd);
        assert_eq!(odd, json!({"metadata": 1}));
    }
}

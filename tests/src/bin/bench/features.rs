//! The objects that switch every feature of traffic management on, for the service `features`: one JSON value per file;
//! and routes in any number.

use std::fs;
use std::path::PathBuf;

use mesh_tests::node::Node;
use mesh_tests::registry::NAMESPACE;
use serde_json::{Value, json};

use super::rig::DIALLED;

/// Whether there are any.
pub(crate) fn are_there() -> bool {
    !files().is_empty()
}

/// Puts the objects in the order of the names of their files. What is refused is said and left out.
pub(crate) fn apply(node: &Node) {
    for path in files() {
        let text = fs::read_to_string(&path).unwrap_or_default();
        match serde_json::from_str::<Value>(&text) {
            Ok(object) => {
                let answer = node.api().put(&object);
                if answer.status >= 300 {
                    eprintln!("without {}: {}", path.display(), answer.body);
                }
            }
            Err(error) => eprintln!("without {}: {error}", path.display()),
        }
    }
    node.settle();
}

/// Routes of one service, each for a prefix of its own; one of them is for `path`.
pub(crate) fn routes(service: &str, path: &str, count: usize) -> Vec<Value> {
    let prefix = |number| {
        if number == count / 2 {
            path.to_owned()
        } else {
            format!("/part-{number}/v1")
        }
    };
    let route = |number| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": format!("{service}-{number}"), "namespace": NAMESPACE },
            "spec": {
                "parentRefs": [{ "group": "", "kind": "Service", "name": service }],
                "rules": [{
                    "matches": [{ "path": { "type": "PathPrefix", "value": prefix(number) } }],
                    "backendRefs": [{ "group": "", "kind": "Service", "name": service, "port": DIALLED }],
                }],
            },
        })
    };
    (0..count).map(route).collect()
}

/// The folder is that of `cargo xtask bench`, which runs at the root of the workspace.
fn files() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("tests/bench/features") else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
        .collect();
    paths.sort();
    paths
}

//! The objects that switch every feature of traffic management on, for the service `features`: one JSON value per file.

use std::fs;
use std::path::PathBuf;

use mesh_tests::node::Node;
use serde_json::Value;

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

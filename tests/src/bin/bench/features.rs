//! The objects that switch every feature of traffic management on, for the service `features`: one JSON value per file.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

/// Whether there are any.
pub(crate) fn are_there() -> bool {
    !files().is_empty()
}

/// The objects, in the order of the names of their files. What is no JSON is said and left out.
pub(crate) fn objects() -> Vec<Value> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let object = serde_json::from_str(&text);
        object
            .map_err(|error| eprintln!("{}: {error}", path.display()))
            .ok()
    };
    files().into_iter().filter_map(read).collect()
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

//! Checks what no compiler checks: layers, who imports what, sizes, first lines, names. Reports every problem.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::process::root;

/// The layers of `mesh-agent`, top first. A module imports only from rows below its own.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["app"],
    &["command"],
    &["config"],
    &["api", "dns", "ebpf", "proxy", "registry"],
    &["probe"],
    &["traffic"],
    &["state"],
    &["drain", "metrics", "net", "telemetry"],
];

/// Crates with an owner: only these modules import them.
const OWNERS: &[(&str, &[&str])] = &[
    ("aya", &["ebpf"]),
    ("aya_obj", &["ebpf"]),
    ("clap", &["config"]),
    ("clap_complete", &["config"]),
    ("hickory_proto", &["dns"]),
    ("hyper", &["api", "command", "probe", "proxy", "registry"]),
    (
        "hyper_util",
        &["api", "command", "probe", "proxy", "registry"],
    ),
    ("prometheus_client", &["metrics"]),
    ("rustls", &["net"]),
    ("tokio_rustls", &["net"]),
];

/// Names that say nothing about what is in a file.
const BANNED_NAMES: &[&str] = &[
    "base", "common", "core", "handler", "helpers", "manager", "misc", "types", "utils",
];

/// The longest name that the kernel shows whole: `BPF_OBJ_NAME_LEN` without the final zero.
const LONGEST_NAME: usize = 15;

const LARGEST_FILE: usize = 400;
const LARGEST_HOOK: usize = 200;
const LARGEST_MAIN: usize = 100;

/// `tidy`.
pub(crate) fn run() -> Result<()> {
    let mut problems = Vec::new();
    let mut files = 0;
    for folder in ["mesh-common", "mesh-ebpf", "mesh-agent", "xtask", "tests"] {
        for_each_source(&root().join(folder), &mut |path| {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let name = path.strip_prefix(root()).unwrap_or(path).to_string_lossy();
            problems.extend(problems_of(&name, &text));
            files += 1;
            Ok(())
        })?;
    }
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("tidy: {} problems in {files} files", problems.len());
    }
    println!("tidy: {files} files");
    Ok(())
}

fn for_each_source(folder: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.ends_with("target") {
            for_each_source(&path, visit)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path)?;
        }
    }
    Ok(())
}

/// Everything that is wrong with one file. `name` is its path from the root of the workspace.
fn problems_of(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push(format!("{name}:1: the first line is not a `//!` sentence"));
    }
    let stem = stem_of(name);
    if BANNED_NAMES.contains(&stem) || name.ends_with("/mod.rs") {
        problems.push(format!(
            "{name}: `{stem}` says nothing about what is inside"
        ));
    }
    problems.extend(size_problem(name, text));
    for (line, code) in code_lines(text) {
        if code.starts_with("#[allow(") || code.starts_with("#![allow(") {
            problems.push(format!(
                "{name}:{line}: `allow` does not expire: use `expect` with a reason"
            ));
        }
    }
    if let Some(module) = agent_module(name) {
        for (line, code) in code_lines(production(text)) {
            let at = format!("{name}:{line}");
            problems.extend(layer_problem(module, code).map(|problem| format!("{at}: {problem}")));
            problems.extend(owner_problems(name, module, code).map(|text| format!("{at}: {text}")));
        }
    }
    if name == "mesh-common/src/names.rs" {
        problems.extend(name_problems(name, text));
    }
    problems
}

fn size_problem(name: &str, text: &str) -> Option<String> {
    if stem_of(name) == "tests" || name.contains("/tests/") {
        return None;
    }
    let limit = if name.ends_with("src/main.rs") {
        LARGEST_MAIN
    } else if name.starts_with("mesh-ebpf/src/") && is_hook(text) {
        LARGEST_HOOK
    } else {
        LARGEST_FILE
    };
    let lines = production(text).lines().count();
    (lines > limit)
        .then(|| format!("{name}: {lines} lines, more than {limit}: find the second idea"))
}

/// Whether the kernel enters a program in this file.
fn is_hook(text: &str) -> bool {
    let attributes = ["#[cgroup_", "#[sk_lookup", "#[sk_msg", "#[sock_ops"];
    let is_entrance = |line: &str| {
        attributes
            .iter()
            .any(|attribute| line.starts_with(attribute))
    };
    text.lines().any(is_entrance)
}

fn layer_problem(own: &str, code: &str) -> Option<String> {
    let (_, used) = code.split_once("crate::")?;
    if code.contains("$crate::") {
        return None;
    }
    if used.starts_with('{') {
        return Some("one `use` per module, so that layers can be checked".to_owned());
    }
    let used = first_word(used);
    if used == own || own == "lib" {
        return None;
    }
    match (layer_of(own), layer_of(used)) {
        (Some(own_layer), Some(used_layer)) if used_layer > own_layer => None,
        (None, _) => Some(format!("`{own}` is in no layer")),
        (_, None) => Some(format!("`crate::{used}` is in no layer")),
        _ => Some(format!("`{own}` must not import `{used}`")),
    }
}

fn owner_problems(name: &str, module: &str, code: &str) -> impl Iterator<Item = String> {
    let is_metrics = stem_of(name) == "metrics" || name.contains("/metrics/");
    OWNERS
        .iter()
        .filter(move |(library, owners)| {
            let is_owner =
                owners.contains(&module) || (*library == "prometheus_client" && is_metrics);
            !is_owner && names_library(code, library)
        })
        .map(move |(library, owners)| {
            format!(
                "`{module}` must not use `{library}`: that is for {}",
                owners.join(", ")
            )
        })
}

fn names_library(code: &str, library: &str) -> bool {
    code.match_indices(library).any(|(start, _)| {
        let (before, rest) = code.split_at(start);
        let after = rest.strip_prefix(library).unwrap_or_default();
        let is_whole = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        is_whole && after.starts_with("::")
    })
}

fn name_problems(name: &str, text: &str) -> Vec<String> {
    code_lines(text)
        .filter_map(|(line, code)| {
            let (_, value) = code.split_once("&str = \"")?;
            let value = value.trim_end_matches("\";");
            (value.len() > LONGEST_NAME)
                .then(|| format!("{name}:{line}: `{value}` is longer than {LONGEST_NAME}"))
        })
        .collect()
}

/// The top module that a file of the agent belongs to.
fn agent_module(name: &str) -> Option<&str> {
    let path = name.strip_prefix("mesh-agent/src/")?;
    if stem_of(name) == "tests" {
        return None;
    }
    Some(first_word(path))
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// What is before the tests at the end of a file.
fn production(text: &str) -> &str {
    let end = text
        .match_indices("#[cfg(test)]\n")
        .find(|(start, marker)| {
            let after = text.get(start + marker.len()..).unwrap_or_default();
            let declaration = after.lines().find(|line| !line.starts_with("#["));
            declaration.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
        })
        .map_or(text.len(), |(start, _)| start);
    text.get(..end).unwrap_or(text)
}

/// Lines that are not comments, trimmed, with their numbers.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.starts_with("//"))
}

fn stem_of(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.strip_suffix(".rs").unwrap_or(file)
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;

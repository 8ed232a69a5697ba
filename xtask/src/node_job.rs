//! Runs the programs of the harness that need a node: the demo and the benchmark.

use std::process::Stdio;

use anyhow::{Result, bail};

use crate::process::{self, command, is_root, root};
use crate::{build, install};

/// `demo [--stay]`.
pub(crate) fn demo(arguments: &[String]) -> Result<()> {
    install::demo_programs()?;
    on_a_node("demo", arguments)
}

/// `bench [ARGUMENTS]`.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    install::node_programs()?;
    on_a_node("bench", arguments)
}

fn on_a_node(program: &str, arguments: &[String]) -> Result<()> {
    if !is_root() {
        bail!(
            "`cargo xtask {program}` makes network namespaces and loads kernel programs: run it as root"
        );
    }
    build::agent(true)?;
    build::harness(true)?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let path = target.join("release").join(program);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Enter ends a demo that stays.
    process::run(command(&path.to_string_lossy(), &arguments).stdin(Stdio::inherit()))
}

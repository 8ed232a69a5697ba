//! Runs the programs of the harness that need a node: the demo and the benchmark.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, bail};

use crate::process::{self, command, is_root, root};
use crate::{build, install};

/// `demo [--stay]`, with a debug build: a release takes several times as long to build.
pub(crate) fn demo(arguments: &[String]) -> Result<()> {
    install::demo_programs()?;
    on_a_node("demo", false, arguments, &[])
}

/// `bench [ARGUMENTS]`.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    let envoy = install::bench_programs()?;
    let variables: [(&str, &Path); 1] = [("MESH_BENCH_ENVOY", &envoy)];
    on_a_node("bench", true, arguments, &variables)
}

fn on_a_node(
    program: &str,
    is_release: bool,
    arguments: &[String],
    variables: &[(&str, &Path)],
) -> Result<()> {
    if !is_root() {
        bail!(
            "`cargo xtask {program}` makes network namespaces and loads kernel programs: run it as root"
        );
    }
    build::agent(is_release)?;
    build::harness(is_release)?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let path = target.join(build::folder(is_release)).join(program);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Enter ends a demo that stays.
    let mut command = command(&path.to_string_lossy(), &arguments);
    command.stdin(Stdio::inherit());
    command.envs(variables.iter().copied());
    process::run(&mut command)
}

//! Runs the programs of the harness that need a node: the demo and the benchmark.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Result, bail};

use crate::process::{self, command, is_root};
use crate::{build, install, pgo};

/// `demo [--stay]`, with a debug build: a release takes several times as long to build.
pub(crate) fn demo(arguments: &[String]) -> Result<()> {
    install::demo_programs()?;
    on_a_node("demo", false, arguments, &[])
}

/// `bench [--pgo] [ARGUMENTS]`.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    let envoy = install::bench_programs()?;
    let mut variables = vec![("MESH_BENCH_ENVOY", envoy)];
    let is_pgo = arguments.first().is_some_and(|first| first == "--pgo");
    if is_pgo {
        variables.push(("MESH_AGENT", pgo::agent()?));
    }
    let arguments = arguments.get(usize::from(is_pgo)..).unwrap_or_default();
    on_a_node("bench", true, arguments, &variables)
}

fn on_a_node(
    program: &str,
    is_release: bool,
    arguments: &[String],
    variables: &[(&str, PathBuf)],
) -> Result<()> {
    if !is_root() {
        bail!(
            "`cargo xtask {program}` makes network namespaces and loads kernel programs: run it as root"
        );
    }
    if !variables.iter().any(|(name, _)| *name == "MESH_AGENT") {
        build::agent(is_release)?;
    }
    build::harness(is_release)?;
    let folder = build::folder(is_release);
    let path = build::target().join(folder).join(program);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Enter ends a demo that stays.
    let mut command = command(&path.to_string_lossy(), &arguments);
    command.stdin(Stdio::inherit());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    process::run(&mut command)
}

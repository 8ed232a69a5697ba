//! Builds the agent with the kernel programs inside.

use anyhow::{Result, bail};

use crate::install;
use crate::process::{self, cargo};

/// `build [--release]`.
pub(crate) fn agent(is_release: bool) -> Result<()> {
    install::kernel_toolchain()?;
    let mut arguments = vec!["build", "--package", "mesh-agent", "--bin", "mesh-agent"];
    if is_release {
        arguments.extend(["--release", "--features", "jemalloc"]);
    }
    process::run(&mut cargo(&arguments))?;
    println!("built: target/{}/mesh-agent", folder(is_release));
    Ok(())
}

/// Where cargo puts what it builds, below its target directory.
pub(crate) const fn folder(is_release: bool) -> &'static str {
    if is_release { "release" } else { "debug" }
}

/// Reads the arguments of `build`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => agent(false),
        [flag] if flag == "--release" => agent(true),
        _ => bail!("usage: cargo xtask build [--release]"),
    }
}

/// Builds the harness's programs: the helper that runs inside pods, the demo, the benchmark.
pub(crate) fn harness(is_release: bool) -> Result<()> {
    let mut arguments = vec!["build", "--package", "mesh-tests", "--bins"];
    if is_release {
        arguments.push("--release");
    }
    process::run(&mut cargo(&arguments))
}

//! Builds the agent with the kernel programs inside.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::process::{self, cargo, root};
use crate::{install, pgo};

/// What cargo is asked for to build the agent.
pub(crate) const AGENT: [&str; 5] = ["build", "--package", "mesh-agent", "--bin", "mesh-agent"];

/// What cargo is asked for besides to build it as it is shipped.
pub(crate) const RELEASE: [&str; 3] = ["--release", "--features", "jemalloc"];

/// `build [--release]`.
pub(crate) fn agent(is_release: bool) -> Result<()> {
    install::kernel_toolchain()?;
    let mut arguments = AGENT.to_vec();
    if is_release {
        arguments.extend(RELEASE);
    }
    process::run(&mut cargo(&arguments))?;
    println!("built: target/{}/mesh-agent", folder(is_release));
    Ok(())
}

/// Where everything is that is built.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
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
        [flag] if flag == "--pgo" => {
            println!("built: {}", pgo::agent()?.display());
            Ok(())
        }
        _ => bail!("usage: cargo xtask build [--release | --pgo]"),
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

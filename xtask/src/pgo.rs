//! Profile-guided optimisation: builds an agent that counts what its code does, puts the loads of the benchmark on it, and
//! builds the agent again, laid out for what was counted.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, command, is_root, output_of, run};
use crate::{build, install};

/// Builds the agent, and returns where it is.
pub(crate) fn agent() -> Result<PathBuf> {
    if !is_root() {
        bail!(
            "`--pgo` puts a load on a node of network namespaces, and loads kernel programs: run it as root"
        );
    }
    install::kernel_toolchain()?;
    install::load_programs()?;
    let host = host()?;
    let profdata = install::llvm_profdata(&host)?;
    let folder = build::target().join("pgo");
    let (counts, profile) = (folder.join("counts"), folder.join("agent.profdata"));
    if counts.is_dir() {
        std::fs::remove_dir_all(&counts)
            .with_context(|| format!("removing {}", counts.display()))?;
    }
    let (from, to) = (counts.to_string_lossy(), profile.to_string_lossy());
    let counting = compile(&folder, &host, &format!("-Cprofile-generate={from}"))?;
    build::harness(true)?;
    let bench = build::target().join("release/bench");
    let mut load = command(&bench.to_string_lossy(), &["--train"]);
    run(load.env("MESH_AGENT", counting))?;
    let arguments = ["merge", "-o", &to, &from];
    run(&mut command(&profdata.to_string_lossy(), &arguments))?;
    compile(&folder, &host, &format!("-Cprofile-use={to}"))
}

/// Builds the agent with a flag for everything in it, but not for what runs while it is built. All else must be the same
/// both times, for what is counted is known by the names of functions, of which cargo makes the settings a part.
fn compile(folder: &Path, host: &str, flag: &str) -> Result<PathBuf> {
    let target = folder.to_string_lossy();
    let place = ["--target", host, "--target-dir", &target];
    let arguments = [&build::AGENT[..], &build::RELEASE, &place].concat();
    run(cargo(&arguments).env("RUSTFLAGS", flag))?;
    Ok(folder.join(host).join("release/mesh-agent"))
}

/// The machine for which rustc builds if nothing else is said.
fn host() -> Result<String> {
    let version = output_of("rustc", &["-vV"]).context("rustc does not run")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

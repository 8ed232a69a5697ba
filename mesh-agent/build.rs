//! Builds the kernel programs (`mesh-ebpf`) into `OUT_DIR/mesh-ebpf`, which `ebpf::load` embeds.
//!
//! Where the BPF linker or the sources of `core` are missing, or with `AYA_BUILD_SKIP=1`, a debug build gets an empty
//! object, with which everything works but loading it. A release build is refused.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// How to get what is missing.
const INSTALL: &str = "run `rustup component add rust-src` and `cargo install bpf-linker --version 0.10.4 --locked`, or `cargo xtask build`";

fn main() -> anyhow::Result<()> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?)
        .parent()
        .context("the crate lies in a workspace")?
        .to_owned();
    for path in ["mesh-ebpf", "mesh-common/src", "rust-toolchain.toml"] {
        tell(&format!("rerun-if-changed={}", root.join(path).display()));
    }
    tell("rerun-if-env-changed=AYA_BUILD_SKIP");
    match missing() {
        None => build(&root),
        Some(missing) if variable("PROFILE")? == "release" => {
            bail!("no kernel programs: {missing}; {INSTALL}")
        }
        Some(missing) => {
            tell(&format!(
                "warning=no kernel programs: {missing}; the agent will not run. {INSTALL}"
            ));
            let output = variable("OUT_DIR")?;
            // A file that is never there: looks again at each build, so that an installed linker is noticed.
            tell(&format!("rerun-if-changed={output}/linker"));
            let object = Path::new(&output).join("mesh-ebpf");
            fs::write(&object, []).with_context(|| format!("writing {}", object.display()))
        }
    }
}

fn build(root: &Path) -> anyhow::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the build of the kernel programs reads it, and this process has one thread"
    )]
    // SAFETY: no other thread exists that could read the environment.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // Else every line of progress becomes a warning of this crate, shown at each build.
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_unset| "1.95.0".to_owned());
    let directory = root.join("mesh-ebpf");
    aya_build::build_ebpf(
        [aya_build::Package {
            name: "mesh-ebpf",
            root_dir: directory.to_str().context("the path is UTF-8")?,
            ..aya_build::Package::default()
        }],
        aya_build::Toolchain::Custom(&toolchain),
    )
}

/// Why the kernel programs cannot be built, if they cannot.
fn missing() -> Option<&'static str> {
    let skip = env::var("AYA_BUILD_SKIP").unwrap_or_default();
    if skip == "1" || skip.eq_ignore_ascii_case("true") {
        return Some("AYA_BUILD_SKIP is set");
    }
    if !has_linker() {
        return Some("bpf-linker is not installed");
    }
    if !has_sources() {
        return Some("the component rust-src is not installed");
    }
    None
}

fn has_linker() -> bool {
    env::var_os("PATH").is_some_and(|path| {
        env::split_paths(&path).any(|directory| directory.join("bpf-linker").is_file())
    })
}

fn has_sources() -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .is_file()
}

fn variable(name: &str) -> anyhow::Result<String> {
    env::var(name).with_context(|| format!("cargo sets {name}"))
}

fn tell(instruction: &str) {
    println!("cargo:{instruction}");
}

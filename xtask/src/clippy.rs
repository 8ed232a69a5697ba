//! Lints both targets, with warnings as errors: what runs here, and what runs in the kernel.

use anyhow::Result;

use crate::install;
use crate::process::{self, cargo};

/// `clippy`.
pub(crate) fn run() -> Result<()> {
    process::run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--exclude",
        "mesh-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    install::kernel_toolchain()?;
    // A panic path in a kernel program is a verifier error at load time, so these lints are not taste.
    let mut kernel = cargo(&[
        "clippy",
        "--package",
        "mesh-ebpf",
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
        "--release",
        "--",
        "-D",
        "warnings",
    ]);
    process::run(kernel.env("RUSTC_BOOTSTRAP", "1"))
}

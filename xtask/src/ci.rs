//! Everything that the pipeline checks, in its order.

use anyhow::Result;

use crate::process::{self, cargo, exists, output_of};
use crate::{clippy, test, tidy};

/// `ci`.
pub(crate) fn run() -> Result<()> {
    process::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    clippy::run()?;
    deny()?;
    test::run(&[])?;
    let mut doc = cargo(&["doc", "--no-deps", "--document-private-items"]);
    process::run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    println!("every check passed");
    Ok(())
}

/// Licences, sources and duplicate versions; advisories too, where their database can be had.
fn deny() -> Result<()> {
    if !exists("cargo-deny") {
        println!(
            "skipped: cargo deny, because cargo-deny is not installed (cargo install cargo-deny)"
        );
        return Ok(());
    }
    let mut checks = vec!["deny", "check", "bans", "licenses", "sources"];
    if output_of("cargo", &["deny", "fetch", "db"]).is_some() {
        checks.push("advisories");
    } else {
        println!("skipped: advisories, because their database cannot be had from here");
    }
    process::run(&mut cargo(&checks))
}

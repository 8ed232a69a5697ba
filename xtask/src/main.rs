//! The task runner: `cargo xtask COMMAND` builds, checks, tests, shows and measures the project.
#![expect(
    clippy::print_stdout,
    reason = "a task runner talks to a person on its terminal"
)]

mod build;
mod ci;
mod clippy;
mod install;
mod node_job;
mod pgo;
mod process;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask COMMAND

  build [--release]   the agent, with the kernel programs inside
  build --pgo         the same, released and laid out for what a load on it was seen to do; needs root
  test [FILTER]       installs what is missing, then runs every test; those of whole nodes need root
  e2e [FILTER]        only the tests of whole nodes, in network namespaces
  demo [--stay]       a node of namespaces with real traffic: shows the main job at work
  bench [--pgo] [ARGUMENTS]
                      costs of the data path as ratios to a direct connection, and beside other proxies
  ci                  everything that the pipeline checks
  clippy              lints, for this machine and for the kernel
  tidy                layers, sizes, first lines, names
  install             only installs what is missing";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = arguments
        .split_first()
        .map_or(("help", &[][..]), |(command, rest)| {
            (command.as_str(), rest)
        });
    match command {
        "build" => build::run(rest),
        "test" => test::run(rest),
        "e2e" => test::end_to_end(rest),
        "demo" => node_job::demo(rest),
        "bench" => node_job::bench(rest),
        "ci" => ci::run(),
        "clippy" => clippy::run(),
        "tidy" => tidy::run(),
        "install" => install::everything(),
        "help" | "-h" | "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        unknown => bail!("`{unknown}` is no command\n\n{USAGE}"),
    }
}

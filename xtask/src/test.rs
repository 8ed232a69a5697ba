//! Runs the tests: first those that need no privileges, then those of whole nodes.

use anyhow::Result;

use crate::process::{cargo, exists, is_root, output_of, run_keeping};
use crate::{build, install};

/// `test [FILTER]`: every test. The last lines are cargo's own summaries.
pub(crate) fn run(filter: &[String]) -> Result<()> {
    install::kernel_toolchain()?;
    install::node_programs()?;
    install::client_programs()?;
    build::agent(false)?;
    let mut summaries = unprivileged(filter)?;
    summaries.extend(whole_nodes(filter)?);
    println!();
    for summary in summaries {
        println!("{summary}");
    }
    Ok(())
}

/// `e2e [FILTER]`: only those of whole nodes.
pub(crate) fn end_to_end(filter: &[String]) -> Result<()> {
    install::node_programs()?;
    install::client_programs()?;
    build::agent(false)?;
    whole_nodes(filter).map(drop)
}

fn unprivileged(filter: &[String]) -> Result<Vec<String>> {
    let mut arguments = vec!["test"];
    arguments.extend(filter.iter().map(String::as_str));
    run_keeping(&mut cargo(&arguments), is_summary)
}

fn whole_nodes(filter: &[String]) -> Result<Vec<String>> {
    build::harness(false)?;
    let mut arguments = vec!["test", "--package", "mesh-tests"];
    arguments.extend(filter.iter().map(String::as_str));
    // One node at a time: heartbeats, deadlines and counts of one must not depend on the load of another.
    arguments.extend(["--", "--test-threads=1"]);
    let mut tests = cargo(&arguments);
    if is_root() {
        // Here nothing is an excuse: a test that cannot run fails.
        tests.env("MESH_TESTS_REQUIRE", "1");
    } else if exists("sudo") && output_of("sudo", &["-n", "true"]).is_some() {
        println!("the tests of whole nodes run as root, by sudo");
        let runner = format!(
            "CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER",
            std::env::consts::ARCH.to_uppercase()
        );
        tests
            .env(runner, "sudo --non-interactive --preserve-env")
            .env("MESH_TESTS_REQUIRE", "1");
    } else {
        println!("not root: the tests of whole nodes say why they are skipped");
    }
    run_keeping(&mut tests, is_summary)
}

fn is_summary(line: &str) -> bool {
    line.starts_with("test result:")
}

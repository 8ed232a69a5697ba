//! Stub.

use std::path::Path;

use crate::command::Line;
use crate::config::Settings;
use crate::config::cli::Check;

/// Runs the agent until it is told to stop.
pub fn run(_settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("not wired yet")
}

/// Tests whether this machine can run the agent.
pub fn check(_check: &Check) -> anyhow::Result<Vec<Line>> {
    anyhow::bail!("not wired yet")
}

/// Removes everything that is pinned under `pin_dir`, and says what it removed.
pub fn cleanup(_pin_dir: &Path) -> anyhow::Result<Vec<String>> {
    anyhow::bail!("not wired yet")
}

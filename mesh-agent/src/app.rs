//! Stub.

use crate::config::Settings;

/// Runs the agent until it is told to stop.
pub fn run(_settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("not wired yet")
}

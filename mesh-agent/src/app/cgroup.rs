//! The agent's own cgroup: hooks run by the cgroup in which a socket was created, so the agent moves before its first.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Moves this process to `root/mesh-agent`, and returns `root` as `/proc/PID/cgroup` names it.
///
/// The agent must be under the hooked cgroup, because its upstream connections carry the caller's identity by `sock_ops`, and
/// apart from every workload's.
pub(super) fn enter(root: &Path) -> Result<PathBuf> {
    let own = root.join(NAME);
    fs::create_dir_all(&own)
        .with_context(|| format!("cannot make the agent's cgroup {}", own.display()))?;
    fs::write(own.join("cgroup.procs"), std::process::id().to_string()).with_context(|| {
        let own = own.display();
        format!("cannot move the agent to {own}: is it in a cgroup2 mount, and may this process write there?")
    })?;
    let text =
        fs::read_to_string("/proc/self/cgroup").context("cannot read the agent's own cgroup")?;
    let path = unified(&text).context("this machine has no unified cgroup hierarchy")?;
    Ok(path.parent().unwrap_or(path).to_owned())
}

/// The path in the unified hierarchy, of the text of `/proc/PID/cgroup`.
fn unified(text: &str) -> Option<&Path> {
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(Path::new)
}

/// Name of the agent's cgroup under the hooked one.
const NAME: &str = "mesh-agent";

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_unified_hierarchy_is_found_among_the_others() {
        let text = "7:pids:/a\n1:name=systemd:/b\n0::/mesh/mesh-agent\n";
        assert_eq!(super::unified(text), Some(Path::new("/mesh/mesh-agent")));
        assert_eq!(super::unified("7:pids:/a\n"), None);
    }
}

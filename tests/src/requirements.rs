//! What a node needs of the machine. Where something is missing a test says what and is skipped, unless told not to.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cgroup;
use crate::leftovers;

/// Set by `cargo xtask test`: what is missing fails the test instead of skipping it.
const REQUIRE: &str = "MESH_TESTS_REQUIRE";

/// Whether nodes can be made here. Removes what killed runs left behind, and mounts the file system of pins.
pub fn met(needs_agent: bool) -> bool {
    let missing = missing(needs_agent);
    let Some(missing) = missing else {
        leftovers::sweep_once();
        return true;
    };
    give_up(&missing);
    false
}

/// Says why a test is skipped; fails it where nothing is an excuse.
#[track_caller]
pub fn give_up(missing: &str) {
    assert!(
        std::env::var_os(REQUIRE).is_none_or(|value| value == "0"),
        "{REQUIRE} is set, but {missing}"
    );
    eprintln!("skipped: {missing}");
}

fn missing(needs_agent: bool) -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return Some("`ip` is missing: install iproute2".to_owned());
    }
    if cgroup::mount().is_none() {
        return Some("no cgroup2 is mounted".to_owned());
    }
    if !is_bpf_mounted() {
        return Some("the BPF file system cannot be mounted at /sys/fs/bpf".to_owned());
    }
    let mut programs = vec![program("pod")];
    if needs_agent {
        programs.push(agent());
    }
    let absent = programs.into_iter().find(|path| !path.is_file())?;
    Some(format!(
        "{} is missing: run `cargo xtask test`, which builds it",
        absent.display()
    ))
}

/// Whether a program is there that a single test wants besides; `package` is the one of Debian that has it.
#[must_use]
pub fn has(program: &str, package: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    assert!(
        is_there || std::env::var_os(REQUIRE).is_none_or(|value| value == "0"),
        "{REQUIRE} is set, but `{program}` is missing: install {package}"
    );
    if !is_there {
        eprintln!("skipped: `{program}` is missing: install {package}");
    }
    is_there
}

/// The agent: `MESH_AGENT`, or what was built with the tests.
#[must_use]
pub fn agent() -> PathBuf {
    std::env::var_os("MESH_AGENT").map_or_else(|| program("mesh-agent"), PathBuf::from)
}

/// A program that was built with this one.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let folder = own.parent().unwrap_or_else(|| Path::new("."));
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    folder.join(name)
}

fn is_bpf_mounted() -> bool {
    let is_mounted = || {
        std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|mounts| {
            mounts
                .lines()
                .any(|line| line.contains(" /sys/fs/bpf ") && line.contains(" - bpf "))
        })
    };
    is_mounted()
        || Command::new("mount")
            .args(["-t", "bpf", "bpf", "/sys/fs/bpf"])
            .status()
            .is_ok_and(|status| status.success())
        || is_mounted()
}

//! Runs other programs: prints the command line, and turns a failure into an error that repeats it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(1).unwrap_or(&manifest).to_owned()
}

/// A command that runs at the root of the workspace, sees what `cargo install` installed, and has nothing to read.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null());
    if let Some(path) = path_with_cargo_bin() {
        command.env("PATH", path);
    }
    command
}

/// A cargo command.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    command(&cargo, arguments)
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", line_of(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line_of(command));
    }
    Ok(())
}

/// Runs a command to its end, shows its output, and returns the lines of it for which `keep` says so.
pub(crate) fn run_keeping(command: &mut Command, keep: fn(&str) -> bool) -> Result<Vec<String>> {
    announce(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", line_of(command)))?;
    let mut kept = Vec::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            if keep(&line) {
                kept.push(line);
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} ended with {status}", line_of(command));
    }
    Ok(kept)
}

/// What a command prints, or `None` where it fails or does not exist.
pub(crate) fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = command(program, arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// Whether a program is there, also where `PATH` forgets the system's own programs.
pub(crate) fn exists(program: &str) -> bool {
    let mut folders: Vec<PathBuf> = path_with_cargo_bin()
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    folders.iter().any(|folder| folder.join(program).is_file())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    output_of("id", &["-u"]).is_some_and(|id| id.trim() == "0")
}

fn path_with_cargo_bin() -> Option<std::ffi::OsString> {
    let path = std::env::var_os("PATH")?;
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))?;
    let folders = std::env::split_paths(&path).chain([home.join("bin"), "/usr/sbin".into()]);
    std::env::join_paths(folders).ok()
}

fn announce(command: &Command) {
    println!("+ {}", line_of(command));
}

fn line_of(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program
        .file_name()
        .unwrap_or_else(|| command.get_program())
        .to_string_lossy()
        .into_owned();
    let arguments = command.get_args().map(OsStr::to_string_lossy);
    std::iter::once(name)
        .chain(arguments.map(Into::into))
        .collect::<Vec<_>>()
        .join(" ")
}

//! The programs in `tests/clients`: one per language, with the packages that people use there.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually::{becomes, eventually};
use crate::pod::Pod;
use crate::requirements;

/// How long a client may take to say something: the JDK compiles it first.
const DEADLINE: Duration = Duration::from_mins(1);

/// What a client is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Python, with py-consul.
    Python,
    /// Node.js, with the package `consul`.
    Node,
    /// Java, with the HTTP client of the JDK.
    Java,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Python, Self::Node, Self::Java];

    /// What its service is called.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "nodejs",
            Self::Java => "java",
        }
    }

    /// The command that runs it; `cargo xtask` has installed what it needs.
    fn command(self) -> Command {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let installed = installed();
        let (program, file) = match self {
            Self::Python => (installed.join("venv/bin/python"), "python/client.py"),
            Self::Node => (PathBuf::from("node"), "node/client.js"),
            Self::Java => (PathBuf::from("java"), "java/Client.java"),
        };
        let mut command = Command::new(program);
        command
            .arg(sources.join(file))
            .env("NODE_PATH", installed.join("node/node_modules"))
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY");
        command
    }
}

/// Where packages of clients are installed.
fn installed() -> PathBuf {
    let own = requirements::program("clients");
    let target = own.ancestors().find(|it| it.ends_with("target"));
    target.map_or_else(|| PathBuf::from("target/clients"), |it| it.join("clients"))
}

/// Whether the programs can be run here. Says what is missing where they cannot.
#[must_use]
pub fn met() -> bool {
    let python = installed().join("venv/bin/python");
    let has = |program: &str, argument: &str| Command::new(program).arg(argument).output().is_ok();
    let missing = match () {
        () if !python.is_file() => "py-consul",
        () if !installed().join("node/node_modules/consul").is_dir() => "the package consul",
        () if !has("node", "--version") => "node",
        () if !has("java", "--version") => "java",
        () => return true,
    };
    let hint = "run `cargo xtask e2e`, which installs it";
    requirements::give_up(&format!("{missing} is missing: {hint}"));
    false
}

/// A client that runs in a pod.
pub struct Running {
    process: Child,
    output: PathBuf,
}

impl Running {
    /// Starts a client in a pod: it serves on a port, and looks for `peer`.
    #[track_caller]
    pub fn start(language: Language, pod: &Pod, port: u16, peer: &str, folder: &Path) -> Self {
        let output = folder.join(language.service());
        let file = File::create(&output).expect("a file for its output");
        let errors = file.try_clone().expect("the same file");
        let mut command = language.command();
        command
            .arg(language.service())
            .args([pod.v4().to_string(), port.to_string()])
            .arg(peer)
            .stdout(Stdio::from(file))
            .stderr(Stdio::from(errors));
        // It goes with the test, also when that is killed.
        let parent_dies =
            || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
        // SAFETY: the closure makes one system call and touches no memory of the parent.
        unsafe {
            command.pre_exec(parent_dies);
        }
        let process = pod.spawn(&mut command).expect("it starts");
        Self { process, output }
    }

    /// What it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        let mut text = String::new();
        let mut file = File::open(&self.output).expect("its output");
        drop(file.read_to_string(&mut text));
        text
    }

    /// Waits until it says something, after so many bytes that it has said before.
    #[track_caller]
    pub fn wait_for(&self, words: &str, after: usize) {
        let has_said = || {
            self.said()
                .get(after..)
                .is_some_and(|it| it.contains(words))
        };
        let is_said = becomes(DEADLINE, has_said);
        assert!(is_said, "it does not say {words:?}:\n{}", self.said());
    }

    /// Asks it to end, and waits for that.
    #[track_caller]
    pub fn stop(mut self) -> String {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("it runs");
        eventually("the client ends", DEADLINE, || {
            self.process.try_wait().ok().flatten()
        });
        self.said()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

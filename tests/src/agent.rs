//! The agent of a node: starts it, waits until it is ready, reads its log, and ends it in every way.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually::{becomes, eventually};
use crate::requirements;

/// How long a start may take: loading every program takes a while where the agent is not optimised.
pub(crate) const START: Duration = Duration::from_secs(30);

/// How long an end may take; the agent's own deadline is shorter.
const END: Duration = Duration::from_secs(20);

/// The flags of an agent.
#[derive(Clone, Debug)]
pub struct Flags {
    /// The hooked cgroup.
    pub cgroup: PathBuf,
    /// Where maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Where the registry is kept.
    pub state_dir: PathBuf,
    /// More flags.
    pub more: Vec<String>,
}

/// How much of its log is kept.
const LOG_BYTES: usize = 64 << 20;

/// An agent's process.
#[derive(Debug)]
pub struct Agent {
    process: Child,
    log: Arc<Mutex<String>>,
}

impl Agent {
    /// Starts an agent. `enter` places the process.
    #[track_caller]
    pub(crate) fn start(flags: &Flags, enter: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(requirements::agent());
        command
            .arg("run")
            .arg("--cgroup")
            .arg(&flags.cgroup)
            .arg("--pin-dir")
            .arg(&flags.pin_dir)
            .arg("--state-dir")
            .arg(&flags.state_dir)
            .args(["--api", "127.0.0.1:15000", "--metrics", "127.0.0.1:15020"])
            .arg("--unix-socket")
            .arg(flags.state_dir.join("agent.sock"))
            .args(&flags.more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        enter(&mut command);
        let mut process = command.spawn().expect("the agent starts");
        let log = Arc::default();
        collect(process.stdout.take().expect("its output"), Arc::clone(&log));
        collect(process.stderr.take().expect("its log"), Arc::clone(&log));
        Self { process, log }
    }

    /// Waits until `is_ready`.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self, deadline: Duration, is_ready: impl Fn() -> bool) {
        let is_up = becomes(deadline, || {
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("the agent ended with {status}:\n{}", self.log());
            }
            is_ready()
        });
        assert!(is_up, "the agent is not ready:\n{}", self.log());
    }

    /// What it has written so far: log and access log.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its memory that is resident, in bytes.
    #[must_use]
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.expect("VmRSS") * 1_024
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed());
        kill(pid, signal).expect("the agent runs");
    }

    /// Kills it at once: no clean-up, no drain.
    pub fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }

    /// Stops it from running, without ending it.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let path = format!("/proc/{}/stat", self.pid());
        eventually("the agent is stopped", END, || {
            let stat = std::fs::read_to_string(&path).ok()?;
            stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
        });
    }

    /// Lets it run again.
    #[track_caller]
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Asks it to end, and returns its exit code (128 and the signal's number where it was killed).
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let log = Arc::clone(&self.log);
        let is_over = becomes(END, || matches!(self.process.try_wait(), Ok(Some(_))));
        assert!(is_over, "the agent does not end:\n{}", log.lock().unwrap());
        let status = self.process.wait().expect("its status");
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("log of the agent:\n{}", self.log());
        }
    }
}

/// Reads to the end, on a thread of its own; of an agent that says very much, the first [`LOG_BYTES`] are kept.
fn collect(output: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    drop(std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap();
            if log.len() < LOG_BYTES {
                log.push_str(&line);
                log.push('\n');
            }
        }
    }));
}

//! The command itself: started inside its cgroup, sent on the signals that are meant for it, and waited for.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{self, Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time;

use super::Error;
use crate::command::exit::Exit;

/// A running command.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
}

impl Child {
    /// Starts the command; it moves itself through `entry` before it becomes what it is.
    pub(super) fn start(command: &[OsString], entry: File) -> Result<Self, Error> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| Error::Watch(io::ErrorKind::InvalidInput.into()))?;
        let mut command = Command::new(program);
        command.args(arguments);
        let fd = entry.as_raw_fd();
        let enter = move || {
            // SAFETY: `fd` is open for as long as `entry`, which outlives `spawn`, and the two bytes are static. "0" is
            // the writing process itself.
            let written = unsafe { libc::write(fd, c"0".as_ptr().cast(), 1) };
            if written == 1 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        };
        // SAFETY: between fork and exec, `enter` makes one system call and reads errno: it neither allocates nor locks.
        unsafe {
            command.pre_exec(enter);
        }
        let process = command.spawn().map_err(|source| Error::Start {
            command: program.clone(),
            source,
        })?;
        drop(entry);
        Ok(Self { process })
    }

    /// Waits for the end, and sends on what comes meanwhile.
    pub(super) async fn wait(&mut self, signals: &mut Signals) -> Result<Exit, Error> {
        loop {
            if let Some(status) = self.process.try_wait().map_err(Error::Watch)? {
                return Ok(exit_of(status));
            }
            if let Some(signal) = signals.next().await {
                self.send(signal);
            }
        }
    }

    /// Asks the command to end, and after a while does not ask.
    pub(super) async fn terminate(&mut self, signals: &mut Signals) -> Result<(), Error> {
        self.send(Signal::SIGTERM);
        if time::timeout(GRACE, self.wait(signals)).await.is_err() {
            self.send(Signal::SIGKILL);
            self.wait(signals).await?;
        }
        Ok(())
    }

    fn send(&self, signal: Signal) {
        let Ok(pid) = i32::try_from(self.process.id()) else {
            return;
        };
        // The process is not reaped before `wait` says so, hence the number is still its own; a failure means that it
        // has just ended, which `wait` sees next.
        if let Err(errno) = kill(Pid::from_raw(pid), signal) {
            tracing::debug!(%errno, %signal, "cannot send a signal on");
        }
    }
}

/// The signals that are meant for the command, and the one that tells of its end.
#[derive(Debug)]
pub(super) struct Signals {
    child: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    quit: unix::Signal,
    /// With a terminal the keyboard's signals reach the command by themselves, and must not come twice.
    has_terminal: bool,
}

impl Signals {
    /// From now on these signals do not end this process.
    pub(super) fn catch() -> Result<Self, Error> {
        let catch = |kind| signal(kind).map_err(Error::Watch);
        Ok(Self {
            child: catch(SignalKind::child())?,
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
            quit: catch(SignalKind::quit())?,
            has_terminal: io::stdin().is_terminal(),
        })
    }

    /// Waits, while there is no command yet, for a signal that would end it.
    pub(super) async fn asked_to_end(&mut self) -> Exit {
        let signal = tokio::select! {
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hangup.recv() => Signal::SIGHUP,
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.quit.recv() => Signal::SIGQUIT,
        };
        exit_of(ExitStatus::from_raw(signal as i32))
    }

    /// The next signal to send on; none when it is the command that may have ended.
    async fn next(&mut self) -> Option<Signal> {
        let (signal, is_from_keyboard) = tokio::select! {
            _ = self.child.recv() => return None,
            _ = self.terminate.recv() => (Signal::SIGTERM, false),
            _ = self.hangup.recv() => (Signal::SIGHUP, false),
            _ = self.interrupt.recv() => (Signal::SIGINT, true),
            _ = self.quit.recv() => (Signal::SIGQUIT, true),
        };
        (!(is_from_keyboard && self.has_terminal)).then_some(signal)
    }
}

/// As a shell tells it: the code, or 128 and the number of the signal.
fn exit_of(status: ExitStatus) -> Exit {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    let code = code.and_then(|code| u8::try_from(code).ok());
    code.map_or(Exit::FAILURE, Exit::from_code)
}

/// For a command that is asked to end because it cannot be registered.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_exit_code_is_the_commands() {
        assert_eq!(run("exit 7").await, 7);
        assert_eq!(run("exit 0").await, 0);
        assert_eq!(run("kill -TERM $$").await, 128 + 15);
    }

    #[tokio::test]
    async fn a_command_that_is_asked_to_end_ends() {
        let mut signals = Signals::catch().expect("signals can be caught");
        let mut child = start("sleep 100");
        child.terminate(&mut signals).await.expect("it ends");
    }

    #[test]
    fn a_command_that_is_not_there_has_its_own_code() {
        let entry = tempfile::tempfile().expect("there is a disk");
        let error = Child::start(&["/does/not/exist".into()], entry).unwrap_err();
        assert_eq!(error.exit(), Exit::NOT_FOUND);
        let entry = tempfile::tempfile().expect("there is a disk");
        let error = Child::start(&["/etc/passwd".into()], entry).unwrap_err();
        assert_eq!(error.exit(), Exit::NOT_EXECUTABLE);
    }

    #[test]
    fn the_command_enters_before_it_starts() {
        let entry = tempfile::NamedTempFile::new().expect("there is a disk");
        let file = entry.reopen().expect("it is there");
        let script = format!("test \"$(cat {})\" = 0", entry.path().display());
        let mut child = Child::start(&["sh".into(), "-c".into(), script.into()], file);
        let status = child.as_mut().expect("it starts").process.wait();
        assert!(status.expect("it ends").success());
    }

    async fn run(script: &str) -> u8 {
        let mut signals = Signals::catch().expect("signals can be caught");
        let exit = start(script).wait(&mut signals).await;
        exit.expect("it ends").code()
    }

    fn start(script: &str) -> Child {
        let entry = tempfile::tempfile().expect("there is a disk");
        Child::start(&["sh".into(), "-c".into(), script.into()], entry).expect("it starts")
    }
}

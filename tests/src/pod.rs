//! Pod: a helper process that was born in a network namespace and a cgroup, and what it can be told to do.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::SigSet;

use crate::cgroup::Cgroup;
use crate::netns::NetNs;
use crate::protocol::{self, Answer, Connected, Failure, HttpCall, Load, Report, Task};
use crate::requirements;

mod datagrams;
mod tasks;

pub use datagrams::Datagrams;
pub use tasks::{Conn, Running, Server, mapped};

/// What a command to a pod may take before the test fails.
const DEADLINE: Duration = Duration::from_mins(2);

type Waiting = Arc<Mutex<HashMap<u64, SyncSender<Result<Answer, Failure>>>>>;

/// A pod. Its process, cgroup and namespace go when it is dropped.
#[derive(Debug)]
pub struct Pod {
    name: String,
    v4: IpAddr,
    v6: IpAddr,
    process: Mutex<Child>,
    input: Mutex<ChildStdin>,
    waiting: Waiting,
    next: AtomicU64,
    cgroup: Cgroup,
    netns: Arc<NetNs>,
}

/// Where a pod lives.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    pub(crate) cgroup: Cgroup,
    pub(crate) netns: Arc<NetNs>,
}

impl Pod {
    #[track_caller]
    pub(crate) fn new(place: Place) -> Self {
        let mut command = Command::new(requirements::program("pod"));
        let (process, input, output) = spawn(&mut command, &place.netns, &place.cgroup);
        let waiting = Waiting::default();
        let answers = Arc::clone(&waiting);
        // Ends with the output of the process.
        drop(std::thread::spawn(move || distribute(output, &answers)));
        Self {
            name: place.name,
            v4: place.v4,
            v6: place.v6,
            process: Mutex::new(process),
            input: Mutex::new(input),
            waiting,
            next: AtomicU64::new(0),
            cgroup: place.cgroup,
            netns: place.netns,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its helper process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap().id()
    }

    /// Its IPv4 address.
    #[must_use]
    pub const fn v4(&self) -> IpAddr {
        self.v4
    }

    /// Its IPv6 address.
    #[must_use]
    pub const fn v6(&self) -> IpAddr {
        self.v6
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Runs another program in the pod, to its end.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> io::Result<std::process::Output> {
        enter(command, &self.netns, &self.cgroup);
        command.stdin(Stdio::null()).output()
    }

    /// Starts another program in the pod. It is killed with the pod.
    #[track_caller]
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        enter(command, &self.netns, &self.cgroup);
        command.stdin(Stdio::null()).spawn()
    }

    /// Kills the process inside, as a crash would: its servers and connections are gone.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        drop(process.kill());
        drop(process.wait());
    }

    /// Begins a task; others can run meanwhile.
    #[track_caller]
    pub(crate) fn begin(&self, task: Task) -> Receiver<Result<Answer, Failure>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        self.waiting.lock().unwrap().insert(id, sender);
        let mut line = serde_json::to_vec(&protocol::Command { id, task }).unwrap();
        line.push(b'\n');
        let sent = self.input.lock().unwrap().write_all(&line);
        sent.unwrap_or_else(|error| panic!("the process of pod {} is gone: {error}", self.name));
        receiver
    }

    /// Does a task.
    #[track_caller]
    pub(crate) fn perform(&self, task: Task) -> Result<Answer, Failure> {
        let receiver = self.begin(task);
        receiver
            .recv_timeout(DEADLINE)
            .unwrap_or_else(|error| panic!("no answer from pod {}: {error}", self.name))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Hands answers to those who wait for them.
fn distribute(output: ChildStdout, waiting: &Waiting) {
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        let reply: protocol::Reply = serde_json::from_str(&line).unwrap();
        let waiter = waiting.lock().unwrap().remove(&reply.id);
        if let Some(waiter) = waiter {
            // Who has stopped waiting does not want to know.
            drop(waiter.send(reply.result));
        }
    }
    waiting.lock().unwrap().clear();
}

#[track_caller]
fn spawn(
    command: &mut Command,
    netns: &NetNs,
    cgroup: &Cgroup,
) -> (Child, ChildStdin, ChildStdout) {
    enter(command, netns, cgroup);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the pod's process");
    let input = child.stdin.take().expect("its input");
    let output = child.stdout.take().expect("its output");
    (child, input, output)
}

/// Makes a command's process begin in a network namespace and a cgroup.
pub(crate) fn enter(command: &mut Command, netns: &NetNs, cgroup: &Cgroup) {
    let netns = netns.open();
    let entrance = cgroup.entrance();
    let work = move || {
        // SAFETY: `entrance` is open as long as the closure lives; the buffer is a constant.
        let written = unsafe { libc::write(entrance.as_raw_fd(), c"0".as_ptr().cast(), 1) };
        if written != 1 {
            return Err(io::Error::last_os_error());
        }
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
        // A program that cleans up on signals blocks them; its children must hear theirs.
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes three system calls and allocates nothing.
    unsafe {
        command.pre_exec(work);
    }
}

/// Splits `http://ADDRESS[:PORT]/PATH` into the address to dial, the authority and the path.
#[track_caller]
fn parse_url(url: &str) -> (SocketAddr, String, String) {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = host
        .parse::<SocketAddr>()
        .or_else(|_| {
            host.trim_matches(['[', ']'])
                .parse()
                .map(|ip| SocketAddr::new(ip, 80))
        })
        .unwrap_or_else(|error| panic!("{url}: {error}"));
    (address, host.to_owned(), format!("/{path}"))
}

#[cfg(test)]
mod tests {
    use super::parse_url;

    #[test]
    fn urls_have_an_address_an_authority_and_a_path() {
        let (address, host, path) = parse_url("http://240.240.0.10/a/b?c");
        assert_eq!(address.to_string(), "240.240.0.10:80");
        assert_eq!((host.as_str(), path.as_str()), ("240.240.0.10", "/a/b?c"));
        let (address, host, path) = parse_url("http://[fd00::1]:8080");
        assert_eq!(address.to_string(), "[fd00::1]:8080");
        assert_eq!((host.as_str(), path.as_str()), ("[fd00::1]:8080", "/"));
    }
}

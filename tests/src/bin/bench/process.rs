//! Processes that are measured: on which processor they run, and what they have used.

use std::io;
use std::process::{Child, Command};
use std::thread::available_parallelism;

/// Where proxies run.
pub(crate) const PROXY_CPU: usize = 0;
/// Where everything else runs: who asks and who answers.
pub(crate) const LOAD_CPU: usize = 1;

/// Whether this machine has a processor for each.
pub(crate) fn has_two_processors() -> bool {
    available_parallelism().is_ok_and(|count| count.get() > LOAD_CPU)
}

/// A command that runs on one processor.
pub(crate) fn on(cpu: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string(), program]);
    command
}

/// Moves a process, with all its threads, to one processor.
pub(crate) fn pin(pid: u32, cpu: usize) -> io::Result<()> {
    let mut command = Command::new("taskset");
    command.args(["-acp", &cpu.to_string(), &pid.to_string()]);
    let output = command.output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("cannot move process {pid}")))
    }
}

/// Does `work` on the processor of the load: the threads and processes that it begins stay there.
pub(crate) fn beside_the_load<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let count = available_parallelism()?.get();
    here(&LOAD_CPU.to_string())?;
    let done = work();
    here(&format!("0-{}", count - 1))?;
    Ok(done)
}

/// Moves the main thread, and none that it has begun.
fn here(cpus: &str) -> io::Result<()> {
    let own = std::process::id().to_string();
    let output = Command::new("taskset").args(["-cp", cpus, &own]).output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other("cannot move"))
    }
}

/// Lets a process and its children, with all their threads, run whenever they can: as if on a processor of their own.
pub(crate) fn prefer(pid: u32) -> io::Result<()> {
    for pid in family(pid) {
        let mut command = Command::new("chrt");
        command.args(["--all-tasks", "--fifo", "--pid", "1", &pid.to_string()]);
        if !command.output()?.status.success() {
            return Err(io::Error::other(format!("cannot prefer process {pid}")));
        }
    }
    Ok(())
}

/// A process that ends with this value.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) const fn new(child: Child) -> Self {
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its children are in the node's cgroup, and end with that.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// CPU time of a process and its children, in microseconds.
pub(crate) fn cpu_micros(pid: u32) -> f64 {
    // SAFETY: asks for a constant of the system.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let ticks: f64 = i32::try_from(ticks).map_or(100.0, f64::from);
    let used: u64 = family(pid).into_iter().filter_map(ticks_of).sum();
    super::outcome::to_float(used) * 1e6 / ticks
}

/// Memory of a process and its children that is resident and theirs alone or shared in parts, in KiB.
pub(crate) fn resident_kib(pid: u32) -> f64 {
    let all = family(pid).into_iter().filter_map(|pid| {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    super::outcome::to_float(all.sum())
}

fn ticks_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in front may contain anything, but ends with the last bracket; user and system time follow.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).take(2);
    let mut next = || times.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn family(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    std::iter::once(pid)
        .chain(children.flat_map(family))
        .collect()
}

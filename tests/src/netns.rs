//! Network namespaces of a test: made with `ip`, removed when dropped.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// A network namespace.
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes a namespace whose loopback is up.
    #[must_use]
    #[track_caller]
    pub fn new(name: String) -> Self {
        ip(&["netns", "add", &name]);
        let netns = Self { name };
        netns.ip_batch("link set lo up\n");
        netns
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Opens it.
    #[must_use]
    #[track_caller]
    pub fn open(&self) -> File {
        File::open(self.path()).expect("the namespace")
    }

    /// Runs `ip` commands, one per line, inside.
    #[track_caller]
    pub fn ip_batch(&self, commands: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip");
        let mut input = child.stdin.take().expect("its input");
        input.write_all(commands.as_bytes()).expect("ip reads");
        drop(input);
        let output = child.wait_with_output().expect("ip ends");
        assert!(
            output.status.success(),
            "ip -n {}: {commands}{}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs `work` on a thread of its own inside. Sockets made there stay there. The thread is in the cgroup of the
    /// tests: this is for the administration of a node, not for traffic of pods.
    #[track_caller]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.open();
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(netns, CloneFlags::CLONE_NEWNET).expect("setns");
                    work()
                })
                .join()
        })
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sets kernel parameters, named by their path below `/proc/sys`.
    #[track_caller]
    pub fn set(&self, parameters: &[(&str, &str)]) {
        self.run(|| {
            for (name, value) in parameters {
                let path = Path::new("/proc/sys").join(name);
                std::fs::write(&path, value)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        });
    }

    /// Spreads packets over all processors, on every interface (receive packet steering).
    #[track_caller]
    pub fn spread_packets(&self) {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mask = u32::MAX.unbounded_shr(32_u32.saturating_sub(processors.try_into().unwrap()));
        let script = format!(
            "for f in /sys/class/net/*/queues/rx-*/rps_cpus; do echo {mask:x} > $f || exit 1; done"
        );
        ip(&["netns", "exec", &self.name, "sh", "-c", &script]);
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        drop(
            Command::new("ip")
                .args(["netns", "del", &self.name])
                .output(),
        );
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

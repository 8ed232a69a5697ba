//! The composition root: builds every part, starts them in order, and stops them in reverse.
//!
//! The order of a start: the agent's own cgroup (before its first socket), the registry, the kernel programs, the proxy, the API, and
//! last the enrolment of workloads. A stop takes the listeners out of the kernel first, so that new connections follow the fail mode of
//! their workload at once, and then lets the proxy finish what it carries.

mod access;
mod cgroup;
mod control;
mod counts;
mod enrolment;
mod facts;
mod memory;
mod node;
mod observed;
mod parts;
mod programmed;
mod runtimes;
mod sources;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::command::Line;
use crate::config;
use crate::config::Settings;
use crate::config::cli::Check;
use crate::ebpf;
use crate::telemetry;

use parts::Parts;
use runtimes::Runtimes;

/// Runs the agent until it is told to stop.
pub fn run(settings: &Settings) -> Result<()> {
    let telemetry = telemetry::init(&telemetry::Config {
        level: settings.log_level.clone(),
        format: log_format(settings.log_format),
    })?;
    for missing in settings.missing() {
        warn!(setting = missing.key, reason = %missing.message, "file is missing, the agent begins without it");
    }
    let hooked = cgroup::enter(&settings.cgroup)?;
    parts::raise_descriptor_limit();
    let runtimes = Runtimes::start()?;
    let parts = Arc::new(Parts::build(settings, hooked, telemetry, &runtimes)?);
    let serving = serve(&parts, runtimes.api(), settings.drain_timeout);
    let result = runtimes.control().block_on(serving);
    runtimes.stop();
    result
}

/// Tests whether this machine can run the agent.
#[must_use]
pub fn check(check: &Check) -> Vec<Line> {
    check_with(check, config::default_cgroup)
}

/// Where no cgroup is there to be hooked, the place where it would be is what is tested: a machine that lacks it may lack more.
fn check_with(
    check: &Check,
    default_cgroup: impl FnOnce() -> Result<PathBuf, config::Error>,
) -> Vec<Line> {
    let cgroup = check.cgroup.clone();
    let cgroup = cgroup.unwrap_or_else(|| default_cgroup().unwrap_or_else(|_| CGROUP.into()));
    let config = ebpf::Config {
        cgroup,
        pin_dir: check.pin_dir.clone(),
        acceleration: true,
    };
    let lines = ebpf::check::run(&config).into_iter().map(|check| Line {
        name: check.name.to_owned(),
        ok: check.ok,
        detail: check.detail,
        hint: Some(check.hint).filter(|hint| !hint.is_empty()),
        code: check.exit_code,
    });
    lines.collect()
}

/// Where cgroups are on most machines.
const CGROUP: &str = "/sys/fs/cgroup";

/// Removes everything that is pinned under `pin_dir`, and says what it removed.
pub fn cleanup(pin_dir: &Path) -> Result<Vec<String>> {
    Ok(ebpf::cleanup::run(pin_dir)?)
}

const fn log_format(format: config::LogFormat) -> telemetry::Format {
    match format {
        config::LogFormat::Text => telemetry::Format::Text,
        config::LogFormat::Json => telemetry::Format::Json,
    }
}

/// Runs the control side until it is told to stop, then drains.
async fn serve(parts: &Arc<Parts>, api: &Handle, drain_timeout: Duration) -> Result<()> {
    let mut stops = Stops::new()?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let hangups = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    tasks.spawn(outlive(hangups));
    let mut api = control::spawn(parts, api, &mut tasks, &stop).await?;
    memory::release();
    info!(version = env!("CARGO_PKG_VERSION"), "started");
    let (failed, patience) = tokio::select! {
        () = stops.next() => (None, 1),
        // Whoever has asked for it by the API tells the process to stop as well.
        () = parts.node.progress.drain_asked() => (None, 2),
        Some(ended) = tasks.join_next() => (Some(ended), 1),
        ended = &mut api => (Some(ended.map(Ok)), 1),
    };
    let impatient = stops.count(patience).shared();
    drain(parts, drain_timeout, impatient.clone()).await;
    stop.cancel();
    // What was asked is answered before that ends which makes the answer.
    if !api.is_finished() {
        finish(api, impatient).await;
    }
    tasks.abort_all();
    failed.map_or(Ok(()), outcome)
}

/// Lets the proxy finish what it carries, until the deadline or until somebody is `impatient`.
async fn drain(parts: &Parts, timeout: Duration, impatient: impl Future<Output = ()>) {
    info!(
        ?timeout,
        connections = parts.proxy.connections(),
        "draining"
    );
    parts.withdraw();
    tokio::select! {
        () = parts.proxy.drain(timeout) => {}
        () = impatient => warn!("told to stop twice: not waiting"),
    }
    let connections = parts.proxy.connections();
    if connections > 0 {
        warn!(connections, "connections are cut");
    }
}

/// Lets the API answer what it was asked, for a moment only where somebody is `impatient`.
async fn finish(api: JoinHandle<()>, impatient: impl Future<Output = ()>) {
    let hurry = async {
        impatient.await;
        time::sleep(SHUTDOWN).await;
    };
    let ends = tokio::select! {
        ended = time::timeout(API_STOP, api) => ended.is_ok(),
        () = hurry => false,
    };
    if !ends {
        warn!("the API does not end: not waiting");
    }
}

/// Lives on when a terminal is closed, or when somebody thinks that settings are read anew.
async fn outlive(mut hangups: Signal) -> Result<()> {
    while hangups.recv().await.is_some() {
        info!(
            "SIGHUP changes nothing: settings hold until a restart, and objects are followed as they change"
        );
    }
    Ok(())
}

/// What a part that ended has to say: none should.
fn outcome(ended: Result<Result<()>, JoinError>) -> Result<()> {
    ended
        .context("a part of the agent has panicked")?
        .context("a part of the agent has failed")?;
    anyhow::bail!("a part of the agent has ended")
}

/// The signals that ask for a stop.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    fn new() -> Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        Ok(Self {
            terminate,
            interrupt,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn count(&mut self, signals: u32) {
        for left in (0..signals).rev() {
            self.next().await;
            if left > 0 {
                info!("told to stop while it drains");
            }
        }
    }
}

/// The error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// How long the API may take to end: longer than what it gives requests under way.
const API_STOP: Duration = Duration::from_secs(6);

/// How long threads that block, or requests when nobody wants to wait, may hold up the end of the process.
const SHUTDOWN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_told_twice_to_stop_waits_for_no_long_answer() {
        let started = Instant::now();
        finish(tokio::spawn(pending()), ready(())).await;
        assert!(started.elapsed() < API_STOP);
        let started = Instant::now();
        finish(tokio::spawn(pending()), pending()).await;
        assert!(started.elapsed() >= API_STOP);
    }

    #[test]
    fn machine_without_cgroups_is_tested_for_the_rest() {
        let absent = Check {
            cgroup: Some("/does/not/exist".into()),
            pin_dir: "/sys/fs/bpf/mesh".into(),
            output: config::cli::Output::Table,
        };
        let all: Vec<String> = check(&absent).into_iter().map(|it| it.name).collect();
        let unnamed = Check {
            cgroup: None,
            ..absent
        };
        let lines = check_with(&unnamed, || Err(config::Error::NoCgroup));
        assert!(lines.iter().map(|it| &it.name).eq(&all));
        let line = lines.iter().find(|it| it.name == "cgroup2").unwrap();
        assert_eq!((line.detail.as_str(), line.code), (CGROUP, 13));
    }
}

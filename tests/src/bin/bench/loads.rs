//! What asks: programs that are faster than any proxy, and the helper of a pod.

use std::io;
use std::net::SocketAddr;

use mesh_tests::pod::Pod;
use mesh_tests::protocol::{Pace, Report, Task};

use super::outcome::to_float;
use super::process::{LOAD_CPU, on};

/// What came of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// In the unit of the subject.
    pub(crate) value: f64,
    /// Operations that the proxy served meanwhile.
    pub(crate) operations: f64,
}

/// HTTP/1.1, 64 connections, each asks again when it has its answer.
pub(crate) fn http1(pod: &Pod, address: SocketAddr, millis: u64) -> io::Result<Load> {
    let mut command = on(LOAD_CPU, "wrk");
    command.args(["-t1", "-c64", "--timeout", "10s", "-d"]);
    command.arg(format!("{}s", seconds(millis)));
    command.arg(format!("http://{address}/1k"));
    let text = output(pod, &mut command)?;
    let bad = ["Non-2xx", "Socket errors: connect", "unable to connect"];
    let has_failed = bad.iter().any(|mark| text.contains(mark));
    let operations = number_before(&text, " requests in ");
    let rate = number_after(&text, "Requests/sec:");
    whole(&text, has_failed, operations.zip(rate))
}

/// HTTP/2, 4 connections of 16 streams.
pub(crate) fn http2(pod: &Pod, address: SocketAddr, millis: u64) -> io::Result<Load> {
    let mut command = on(LOAD_CPU, "h2load");
    command.args(["-c4", "-m16", "-t1", "-p", "h2c", "-D"]);
    command.arg(seconds(millis).to_string());
    command.arg(format!("http://{address}/1k"));
    let text = output(pod, &mut command)?;
    let operations = number_before(&text, " 2xx,");
    let others = [" 3xx,", " 4xx,", " 5xx"].map(|mark| number_before(&text, mark));
    let has_failed = others
        .iter()
        .any(|count| count.is_none_or(|count| count > 0.0));
    let rate = text
        .lines()
        .find(|line| line.starts_with("finished in"))
        .and_then(|line| number_before(line, " req/s"));
    whole(&text, has_failed, operations.zip(rate))
}

/// 2,000 requests a second: the median of their times.
pub(crate) fn paced(pod: &Pod, address: SocketAddr, millis: u64) -> io::Result<Load> {
    let pace = Pace {
        address,
        rate: 2_000,
        connections: 32,
        millis,
    };
    let report = task(pod, Task::Paced(pace))?;
    Ok(Load {
        value: to_float(report.p50_nanos) / 1_000.0,
        operations: to_float(report.succeeded),
    })
}

/// Few requests: the time that all but one in a hundred take at most.
pub(crate) fn tail(pod: &Pod, address: SocketAddr, rate: u32, millis: u64) -> io::Result<f64> {
    let pace = Pace {
        address,
        rate,
        connections: 16,
        millis,
    };
    let report = task(pod, Task::Paced(pace))?;
    Ok(to_float(report.p99_nanos) / 1_000.0)
}

/// One stream of bytes; an operation is a megabyte.
pub(crate) fn bulk(pod: &Pod, address: SocketAddr, millis: u64) -> io::Result<Load> {
    let report = task(pod, Task::Stream { address, millis })?;
    Ok(Load {
        value: gigabits(&report),
        operations: to_float(report.bytes) / 1e6,
    })
}

/// Gigabits a second.
pub(crate) fn gigabits(report: &Report) -> f64 {
    to_float(report.bytes) * 8.0 / to_float(report.elapsed_micros) / 1_000.0
}

/// Exchanges a second.
pub(crate) fn per_second(report: &Report) -> f64 {
    to_float(report.succeeded) * 1_000_000.0 / to_float(report.elapsed_micros)
}

/// Has a pod do a task; any exchange that failed is a failure.
pub(crate) fn task(pod: &Pod, task: Task) -> io::Result<Report> {
    let report = pod
        .measure(task)
        .map_err(|failure| io::Error::other(format!("{failure:?}")))?;
    if report.failed > 0 {
        return Err(io::Error::other(format!("{report:?}")));
    }
    Ok(report)
}

/// wrk and h2load count in whole seconds.
fn seconds(millis: u64) -> u64 {
    millis.div_ceil(1_000)
}

fn output(pod: &Pod, command: &mut std::process::Command) -> io::Result<String> {
    let output = pod.run(command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(io::Error::other(format!(
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        )))
    }
}

fn whole(text: &str, has_failed: bool, found: Option<(f64, f64)>) -> io::Result<Load> {
    match found {
        Some((operations, value)) if !has_failed && operations > 0.0 => {
            Ok(Load { value, operations })
        }
        _ => Err(io::Error::other(text.to_owned())),
    }
}

fn number_before(text: &str, mark: &str) -> Option<f64> {
    let (before, _) = text.split_once(mark)?;
    before.split([' ', '\n']).next_back()?.parse().ok()
}

fn number_after(text: &str, mark: &str) -> Option<f64> {
    let (_, after) = text.split_once(mark)?;
    after.split_whitespace().next()?.parse().ok()
}

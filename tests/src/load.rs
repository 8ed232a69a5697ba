//! Load from a pod: many exchanges for a while, and what came of them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::dial;
use crate::protocol::{Load, Report};

/// What one exchange may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Runs a load to its end, or until it is stopped.
pub(crate) async fn run(load: Load, stop: Arc<AtomicBool>) -> Report {
    let started = Instant::now();
    let load = Arc::new(load);
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let caller = Caller {
            load: Arc::clone(&load),
            stop: Arc::clone(&stop),
            tally: Tally::new(started),
        };
        tasks.spawn(caller.run(started));
    }
    let tallies = tasks.join_all().await;
    Tally::report(started, tallies)
}

struct Caller {
    load: Arc<Load>,
    stop: Arc<AtomicBool>,
    tally: Tally,
}

enum Kept {
    Http(SendRequest<Empty<Bytes>>),
    Tcp(TcpStream),
}

impl Caller {
    async fn run(mut self, started: Instant) -> Tally {
        let end = started + Duration::from_millis(self.load.millis);
        let mut kept = None;
        while Instant::now() < end && !self.stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let result = match timeout(DEADLINE, self.exchange(kept.take())).await {
                Ok(Ok((server, connection))) => {
                    kept = connection.filter(|_| self.load.keep_alive);
                    Ok(server)
                }
                Ok(Err(error)) => Err(error),
                Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
            };
            if result.is_err() {
                // A dead server must not turn the load into a busy loop.
                sleep(Duration::from_millis(1)).await;
            }
            self.tally.count(begin, result);
            if self.load.pause_micros > 0 {
                sleep(Duration::from_micros(self.load.pause_micros)).await;
            }
        }
        self.tally
    }

    async fn exchange(&self, kept: Option<Kept>) -> io::Result<(Option<String>, Option<Kept>)> {
        let connection = match kept {
            Some(kept) => kept,
            None => self.open().await?,
        };
        match connection {
            Kept::Http(mut sender) => {
                let server = self.request(&mut sender).await?;
                Ok((Some(server), Some(Kept::Http(sender))))
            }
            Kept::Tcp(mut stream) => {
                let mut bytes = *b"sixteen bytes!!\n";
                stream.write_all(&bytes).await?;
                stream.read_exact(&mut bytes).await?;
                Ok((None, Some(Kept::Tcp(stream))))
            }
        }
    }

    async fn open(&self) -> io::Result<Kept> {
        let stream = dial(self.load.address, None).await?;
        if !self.load.http {
            return Ok(Kept::Tcp(stream));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Ends when its sender is dropped.
        drop(tokio::spawn(connection));
        Ok(Kept::Http(sender))
    }

    async fn request(&self, sender: &mut SendRequest<Empty<Bytes>>) -> io::Result<String> {
        sender.ready().await.map_err(io::Error::other)?;
        let request = Request::get("/")
            .header("host", self.load.address.to_string())
            .body(Empty::new())
            .map_err(io::Error::other)?;
        let response = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let status = response.status();
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(ToOwned::to_owned)
        };
        let server = header("x-server").unwrap_or_default();
        let reason = header("x-mesh-error").unwrap_or_default();
        response
            .into_body()
            .collect()
            .await
            .map_err(io::Error::other)?;
        if status.is_success() {
            Ok(server)
        } else {
            Err(io::Error::other(format!("{status} {reason}")))
        }
    }
}

/// What one caller has seen.
pub(crate) struct Tally {
    report: Report,
    nanos: Vec<u64>,
    last_success: Instant,
    longest_gap: Duration,
}

impl Tally {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            report: Report::default(),
            nanos: Vec::new(),
            last_success: started,
            longest_gap: Duration::ZERO,
        }
    }

    /// Counts an exchange that began at `begin` and ends now; a success may name its server.
    pub(crate) fn count(&mut self, begin: Instant, result: io::Result<Option<String>>) {
        let now = Instant::now();
        match result {
            Ok(server) => {
                self.report.succeeded += 1;
                if let Some(server) = server {
                    *self.report.by_server.entry(server).or_default() += 1;
                }
                let nanos = now.duration_since(begin).as_nanos();
                self.nanos.push(u64::try_from(nanos).unwrap_or(u64::MAX));
                let gap = now.duration_since(self.last_success);
                self.longest_gap = self.longest_gap.max(gap);
                self.last_success = now;
            }
            Err(error) => {
                self.report.failed += 1;
                *self.report.errors.entry(error.to_string()).or_default() += 1;
            }
        }
    }

    /// Joins what all callers have seen.
    pub(crate) fn report(started: Instant, tallies: impl IntoIterator<Item = Self>) -> Report {
        let mut report = Report::default();
        let mut nanos = Vec::new();
        let mut longest_gap = Duration::ZERO;
        for tally in tallies {
            report.succeeded += tally.report.succeeded;
            report.failed += tally.report.failed;
            for (server, count) in tally.report.by_server {
                *report.by_server.entry(server).or_default() += count;
            }
            for (error, count) in tally.report.errors {
                *report.errors.entry(error).or_default() += count;
            }
            nanos.extend(tally.nanos);
            longest_gap = longest_gap.max(tally.longest_gap);
        }
        nanos.sort_unstable();
        let quantile = |hundredths: usize| nanos.get(nanos.len() * hundredths / 100).copied();
        report.p50_nanos = quantile(50).unwrap_or_default();
        report.p99_nanos = quantile(99).unwrap_or_default();
        report.longest_gap_millis = u64::try_from(longest_gap.as_millis()).unwrap_or(u64::MAX);
        let elapsed = started.elapsed().as_micros();
        report.elapsed_micros = u64::try_from(elapsed).unwrap_or(u64::MAX);
        report
    }
}

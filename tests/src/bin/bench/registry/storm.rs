//! Clients of the API that wait for changes of services: each asks again as soon as it has an answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use mesh_tests::eventually::becomes;
use mesh_tests::node::Node;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

/// How long all clients may take to come.
const DEADLINE: Duration = Duration::from_mins(1);
/// Between two looks at whether it is over.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Count {
    /// Clients that have had a first answer, and wait for the next.
    waiting: AtomicU64,
    /// Answers to queries that waited.
    answers: AtomicU64,
    /// What went wrong.
    failures: AtomicU64,
    is_over: AtomicBool,
}

/// Does something while `clients` of whoever answers at `address` wait for changes of `services`, and says how many answers
/// they got meanwhile.
pub(super) fn beside<T>(
    node: &Node,
    address: SocketAddr,
    clients: u32,
    services: &[(String, String)],
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<(T, u64)> {
    let paths: Vec<String> = services
        .iter()
        .map(|(namespace, service)| path(namespace, service))
        .collect();
    let count = Arc::new(Count::default());
    thread::scope(|scope| {
        let storm = scope.spawn(|| node.netns().run(|| run(address, clients, &paths, &count)));
        let is_up = becomes(DEADLINE, || {
            count.waiting.load(Ordering::Relaxed) >= u64::from(clients) || storm.is_finished()
        });
        let before = count.answers.load(Ordering::Relaxed);
        let done = work();
        let answers = count.answers.load(Ordering::Relaxed) - before;
        count.is_over.store(true, Ordering::Relaxed);
        let ended = storm.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        if !is_up || count.failures.load(Ordering::Relaxed) > 0 {
            return Err(io::Error::other("clients of the API have failed"));
        }
        Ok((done?, answers))
    })
}

/// What a client asks, up to the index.
pub(super) fn path(namespace: &str, service: &str) -> String {
    format!("/v1/health/service/{service}?ns={namespace}&wait=60s&index=")
}

/// All clients, on this thread, which takes only time that nobody else wants: they would be elsewhere.
fn run(address: SocketAddr, clients: u32, paths: &[String], count: &Arc<Count>) -> io::Result<()> {
    // SAFETY: changes an attribute of this thread; no pointer is passed.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for (path, _) in paths.iter().cycle().zip(0..clients) {
            let (path, count) = (path.clone(), Arc::clone(count));
            tasks.spawn(async move {
                if wait_for_changes(address, &path, &count).await.is_err() {
                    count.failures.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while !count.is_over.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK).await;
        }
    });
    Ok(())
}

async fn wait_for_changes(
    address: SocketAddr,
    path: &str,
    count: &Count,
) -> Result<(), hyper::Error> {
    let Ok(stream) = TcpStream::connect(address).await else {
        count.failures.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends when its sender is dropped.
    drop(tokio::spawn(connection));
    let mut index = ask(&mut sender, path, "0").await?;
    count.waiting.fetch_add(1, Ordering::Relaxed);
    loop {
        index = ask(&mut sender, path, &index).await?;
        count.answers.fetch_add(1, Ordering::Relaxed);
    }
}

/// One query; returns the index of its answer.
async fn ask(
    sender: &mut SendRequest<Empty<Bytes>>,
    path: &str,
    index: &str,
) -> Result<String, hyper::Error> {
    sender.ready().await?;
    let mut request = Request::new(Empty::new());
    let path = format!("{path}{index}");
    *request.uri_mut() = path.parse().unwrap_or_default();
    let host = http::HeaderValue::from_static("127.0.0.1:15000");
    request.headers_mut().insert("host", host);
    let response = sender.send_request(request).await?;
    let header = response.headers().get("x-consul-index");
    let index = header.and_then(|it| it.to_str().ok()).unwrap_or("0");
    let index = index.to_owned();
    response.into_body().collect().await?;
    Ok(index)
}

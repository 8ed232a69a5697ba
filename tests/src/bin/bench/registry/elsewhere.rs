//! Somebody else who answers the same lookups at the same rate: what they cost the machine, whoever answers.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_tests::node::Node;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{Notify, oneshot};
use tokio::time::interval;

/// Gives the address of a server to `work`, and ends it afterwards. Its clients are in `groups`; one group after the other
/// gets `answer` to queries that wait, one each `pause`.
pub(super) fn beside<T>(
    node: &Node,
    answer: String,
    groups: usize,
    pause: Duration,
    work: impl FnOnce(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let bound = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = node.netns().run(bound)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    thread::scope(|scope| {
        let serving = scope.spawn(move || -> io::Result<()> {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    failed = serve(listener, Bytes::from(answer), groups, pause) => failed,
                    _ = stopped => Ok(()),
                }
            })
        });
        let done = work(address);
        drop(stop);
        let ended = serving.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        done
    })
}

async fn serve(
    listener: std::net::TcpListener,
    answer: Bytes,
    groups: usize,
    pause: Duration,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let bells: Vec<_> = (0..groups).map(|_| Arc::new(Notify::new())).collect();
    let mut accepted = bells.iter().cycle();
    let mut turn = bells.iter().cycle();
    let mut ticks = interval(pause);
    loop {
        tokio::select! {
            accepting = listener.accept() => {
                let (stream, _) = accepting?;
                stream.set_nodelay(true)?;
                let bell = accepted.next().map(Arc::clone).unwrap_or_default();
                let answer = answer.clone();
                let service = service_fn(move |request| reply(request, Arc::clone(&bell), answer.clone()));
                let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // Ends with its client, or with the runtime.
                drop(tokio::spawn(serving));
            }
            _ = ticks.tick() => {
                if let Some(bell) = turn.next() {
                    bell.notify_waiters();
                }
            }
        }
    }
}

/// The first query of a client is answered at once.
async fn reply(
    request: Request<Incoming>,
    bell: Arc<Notify>,
    answer: Bytes,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = request.uri().query().unwrap_or_default();
    if !query.ends_with("index=0") {
        bell.notified().await;
    }
    let mut response = Response::new(Full::new(answer));
    let index = http::HeaderValue::from_static("1");
    response.headers_mut().insert("x-consul-index", index);
    Ok(response)
}

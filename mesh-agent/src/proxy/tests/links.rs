//! Connections to endpoints that speak HTTP/2, and their ends.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::fixture::{Node, eventually, http2_client, server, within};

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// A server of HTTP/2 whose every request is handled by `answer`.
async fn endpoint<F, R>(answer: F) -> (SocketAddr, JoinHandle<()>)
where
    F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    server(move |stream| {
        let answer = answer.clone();
        async move {
            let mut connection = hello(stream).await?;
            while let Some(asked) = connection.accept().await {
                tokio::spawn(answer(asked.map_err(io::Error::other)?));
            }
            Ok(())
        }
    })
    .await
}

async fn hello(stream: TcpStream) -> io::Result<Connection<TcpStream, Bytes>> {
    h2::server::handshake(stream)
        .await
        .map_err(io::Error::other)
}

fn say(mut respond: SendResponse<Bytes>, text: &'static str) -> Result<(), h2::Error> {
    let mut body = respond.send_response(Response::new(()), false)?;
    body.send_data(Bytes::from_static(text.as_bytes()), true)
}

/// A request that may not be sent twice.
fn post(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://web.shop/")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .expect("a request")
}

fn connect() -> Request<Full<Bytes>> {
    Request::connect("web.shop:80")
        .body(Full::default())
        .expect("a request")
}

/// The body of the answer to a request of its own, or the status and reason of a failure.
async fn ask(client: &mut SendRequest<Full<Bytes>>) -> Result<Bytes, (StatusCode, String)> {
    let response = within(client.send_request(post("x")))
        .await
        .expect("answers");
    let status = response.status();
    let body = within(response.into_body().collect()).await.expect("ends");
    let text = body.to_bytes();
    if status == StatusCode::OK {
        Ok(text)
    } else {
        Err((status, String::from_utf8_lossy(&text).into_owned()))
    }
}

#[tokio::test]
async fn who_does_not_speak_http2_loses_no_request() {
    let (closes, _closes) = server(|_| async { Ok(()) }).await;
    let (old, _old) =
        server(
            |mut stream| async move { stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await },
        )
        .await;
    let (good, _good) = endpoint(|(_, respond)| ready(say(respond, "good"))).await;
    let node = Node::start("http2", &[closes, old, good]);
    let mut client = http2_client(&node).await;
    for _ in 0..6 {
        assert_eq!(ask(&mut client).await.expect("is asked elsewhere"), "good");
    }
}

#[tokio::test]
async fn a_connection_that_an_endpoint_retires_loses_no_request() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let (address, _server) = server(move |stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut connection = hello(stream).await?;
            // Two requests on each connection, and what is under way when it says so.
            for number in 0_u32.. {
                let Some(asked) = connection.accept().await else {
                    break;
                };
                let (_, respond) = asked.map_err(io::Error::other)?;
                say(respond, "here").map_err(io::Error::other)?;
                if number == 1 {
                    connection.graceful_shutdown();
                }
            }
            Ok(())
        }
    })
    .await;
    let node = Node::start("http2", &[address]);
    let mut client = http2_client(&node).await;
    for _ in 0..20 {
        assert_eq!(ask(&mut client).await.expect("answers"), "here");
    }
    assert!(connections.load(Ordering::Relaxed) > 2);
}

#[tokio::test]
async fn an_endpoint_that_retires_many_connections_at_once_loses_no_request() {
    let come = Arc::new(AtomicUsize::new(0));
    let retires = Arc::new(Notify::new());
    let (counter, notice) = (Arc::clone(&come), Arc::clone(&retires));
    let (address, _server) = server(move |stream| {
        let (come, retires) = (Arc::clone(&counter), Arc::clone(&notice));
        async move {
            let mut builder = h2::server::Builder::new();
            let handshake = builder.max_concurrent_streams(1).handshake(stream);
            let mut connection = handshake.await.map_err(io::Error::other)?;
            let mut held = Vec::new();
            loop {
                let mut retired = pin!(retires.notified());
                retired.as_mut().enable();
                tokio::select! {
                    asked = connection.accept() => match asked {
                        Some(Ok((_, respond))) => {
                            held.push(respond);
                            come.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => return Ok(()),
                    },
                    () = retired => {
                        connection.graceful_shutdown();
                        for respond in held.drain(..) {
                            say(respond, "here").map_err(io::Error::other)?;
                        }
                    }
                }
            }
        }
    })
    .await;
    let node = Node::start("http2", &[address]);
    let client = http2_client(&node).await;
    // More connections than a request may find closed.
    for round in 1..3 {
        let asked: Vec<_> = (0..8)
            .map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move { ask(&mut client).await })
            })
            .collect();
        let count = || come.load(Ordering::Relaxed);
        eventually("a connection for each", || count() == 8 * round).await;
        // All of them wait in the same thread as this.
        retires.notify_waiters();
        for asked in asked {
            assert_eq!(asked.await.expect("runs").expect("answers"), "here");
        }
    }
}

#[tokio::test]
async fn an_answer_that_wants_no_more_of_the_request_is_whole() {
    let (address, _server) = endpoint(|(_, mut respond)| async move {
        let response = Response::builder().header("content-length", "6");
        let response = response.body(()).expect("a response");
        let mut body = respond.send_response(response, false)?;
        // h2 resets the stream after it, with NO_ERROR, as nobody reads the request.
        body.send_data(Bytes::from_static(b"enough"), true)
    })
    .await;
    let node = Node::start("http2", &[address]);
    let mut client = http2_client(&node).await;
    // More would come, if anybody wanted it.
    let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")))]);
    let body = StreamBody::new(first.chain(stream::pending()));
    let request = Request::post("http://web.shop/").body(body);
    let response = within(client.send_request(request.expect("a request"))).await;
    let body = within(response.expect("answers").into_body().collect()).await;
    assert_eq!(body.expect("is whole").to_bytes(), "enough");
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_cancelled_at_the_endpoint() {
    let (come, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let notes = (Arc::clone(&come), Arc::clone(&gone));
    let (address, _server) = endpoint(move |(_, mut respond)| {
        let (come, gone) = notes.clone();
        async move {
            come.notify_one();
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
            assert_eq!(reason, Reason::CANCEL);
            gone.notify_one();
            Ok(())
        }
    })
    .await;
    let node = Node::start("http2", &[address]);
    let mut client = http2_client(&node).await;
    let asked = tokio::spawn(async move { client.send_request(post("x")).await });
    within(come.notified()).await;
    asked.abort();
    within(gone.notified()).await;
}

#[tokio::test]
async fn a_tunnel_through_http2_carries_bytes_both_ways_and_its_end() {
    let (address, _server) = endpoint(|(request, mut respond)| async move {
        assert_eq!(request.method(), Method::CONNECT);
        let mut sender = respond.send_response(Response::new(()), false)?;
        let mut receiver = request.into_body();
        while let Some(data) = receiver.data().await {
            let data = data?;
            receiver.flow_control().release_capacity(data.len())?;
            sender.send_data(data, false)?;
        }
        sender.send_data(Bytes::from_static(b"bye"), true)
    })
    .await;
    let node = Node::start("http2", &[address]);
    let mut client = http2_client(&node).await;
    let response = within(client.send_request(connect())).await;
    let response = response.expect("answers");
    assert_eq!(response.status(), StatusCode::OK);
    let upgraded = within(hyper::upgrade::on(response)).await.expect("opens");
    let mut stream = TokioIo::new(upgraded);
    // More than a window of the endpoint, which is 64 KiB.
    let sent = vec![7; 300_000];
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let write = async {
        writer.write_all(&sent).await?;
        writer.shutdown().await
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(write, reader.read_to_end(&mut got)) };
    let (wrote, read) = within(both).await;
    wrote.expect("writes");
    read.expect("reads");
    assert_eq!(got.len(), sent.len() + 3);
    assert!(got.ends_with(b"bye"));
}

#[tokio::test]
async fn a_tunnel_that_is_refused_is_an_answer() {
    let (address, _server) = endpoint(|(_, mut respond)| async move {
        let response = Response::builder()
            .status(403)
            .header("content-length", "2");
        let response = response.body(()).expect("a response");
        let mut body = respond.send_response(response, false)?;
        body.send_data(Bytes::from_static(b"no"), true)
    })
    .await;
    let node = Node::start("http2", &[address]);
    let mut client = http2_client(&node).await;
    let response = within(client.send_request(connect())).await;
    assert_eq!(response.expect("answers").status(), StatusCode::FORBIDDEN);
}

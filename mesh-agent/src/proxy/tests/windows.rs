//! What HTTP/2 holds of bodies that nobody takes, and who waits for whom.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::fixture::{Node, eventually, http1_server, http2_client, server, text, within};
use crate::proxy::config::{Config, Limits};

const MIB: usize = 1024 * 1024;
/// The window that HTTP/2 begins with: RFC 9113, 6.9.2.
const WINDOW: usize = 65_535;

/// A server of HTTP/2 with so large a window for all streams, whose every request is handled by `answer`.
async fn endpoint<F, R>(window: u32, answer: F) -> (SocketAddr, JoinHandle<()>)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    server(move |stream| {
        let answer = answer.clone();
        async move {
            let mut builder = Builder::new();
            builder.initial_connection_window_size(window);
            let shake = builder.handshake(stream).await;
            let mut connection = shake.map_err(io::Error::other)?;
            while let Some(asked) = connection.accept().await {
                let (request, respond) = asked.map_err(io::Error::other)?;
                tokio::spawn(answer(request, respond));
            }
            Ok(())
        }
    })
    .await
}

/// Reads so many bytes and gives no room for others.
async fn read(request: &mut Request<RecvStream>, mut bytes: usize) -> Result<(), h2::Error> {
    while bytes > 0 {
        let data = request.body_mut().data().await.expect("more comes")?;
        bytes -= data.len();
    }
    Ok(())
}

fn post(path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let request = Request::post(format!("http://web.shop/{path}"));
    request.body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn an_idle_upload_holds_nothing_that_others_need() {
    let come = Arc::new(Notify::new());
    let note = Arc::clone(&come);
    let (address, _server) = endpoint(65_535, move |mut request, mut respond| {
        let come = Arc::clone(&note);
        async move {
            if request.uri().path() == "/idle" {
                read(&mut request, WINDOW - 1).await?;
                come.notify_one();
                poll_fn(|cx| respond.poll_reset(cx)).await?;
            } else {
                read(&mut request, 1).await?;
                respond.send_response(Response::new(()), true)?;
            }
            Ok(())
        }
    })
    .await;
    let node = Node::start("http2", &[address]);
    let mut client = http2_client(&node).await;
    let mut ask = |path: &str, bytes: usize, is_whole: bool| {
        let first = Bytes::from(vec![7; bytes]);
        let first = stream::iter([Ok::<_, Infallible>(Frame::data(first))]);
        let rest = stream::pending().take(usize::from(!is_whole));
        let request = Request::post(format!("http://web.shop/{path}"));
        client.send_request(request.body(StreamBody::new(first.chain(rest))).unwrap())
    };
    let idle = tokio::spawn(ask("idle", WINDOW - 1, false));
    within(come.notified()).await;
    let response = within(ask("short", 1, true)).await.unwrap();
    assert_eq!(response.status(), 200);
    idle.abort();
}

#[tokio::test]
async fn an_upload_that_the_endpoint_does_not_take_ends_with_its_client() {
    let gone = Arc::new(Notify::new());
    let note = Arc::clone(&gone);
    let (address, _server) = endpoint(65_535, move |_request, mut respond| {
        let gone = Arc::clone(&note);
        async move {
            let mut body = respond.send_response(Response::new(()), false)?;
            assert_eq!(poll_fn(|cx| body.poll_reset(cx)).await?, Reason::CANCEL);
            gone.notify_one();
            Ok(())
        }
    })
    .await;
    let node = Node::start("http2", &[address]);
    let mut client = http2_client(&node).await;
    let sent = client.send_request(post("", vec![7; 2 * WINDOW]));
    let response = within(sent).await.unwrap();
    // What it has sent waits in the proxy for the endpoint.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    drop(response);
    within(gone.notified()).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_held_to_the_deadline() {
    let (address, _server) = http1_server(|_| text("x".repeat(MIB))).await;
    let policy = json!({"timeouts": {"request": "1s"}});
    let node = Node::guarded("http", &[address], &policy);
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1_000);
    let shake = builder.handshake::<_, Bytes>(node.connect().await);
    let (sender, connection) = within(shake).await.unwrap();
    tokio::spawn(connection);
    let mut sender = within(sender.ready()).await.unwrap();
    let request = Request::get("http://web.shop/").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let mut body = within(response).await.unwrap().into_body();
    let mut taken = 0;
    let end = loop {
        match within(body.data()).await {
            Some(Ok(data)) => taken += data.len(),
            Some(Err(error)) => break error.reason(),
            None => panic!("looks whole with {taken} bytes"),
        }
    };
    assert_eq!((taken, end), (1_000, Some(Reason::INTERNAL_ERROR)));
    assert_eq!(node.metric(&["reason=\"deadline\""], 1).await, 1);
}

#[tokio::test]
async fn uploads_that_wait_make_room_for_others_where_there_is_room() {
    let (address, _server) = endpoint(64 << 20, |mut request, mut respond| async move {
        if request.uri().path() == "/slow" {
            poll_fn(|cx| respond.poll_reset(cx)).await?;
        } else {
            read(&mut request, 1).await?;
            respond.send_response(Response::new(()), true)?;
        }
        Ok(())
    })
    .await;
    for (of_workload, least, most) in [(512 * MIB, 5 * MIB, 8 * MIB), (3 * MIB, MIB, MIB)] {
        let limits = Limits {
            workload_buffered_bytes: of_workload,
            ..Limits::default()
        };
        let config = Config {
            limits,
            ..Config::default()
        };
        let node = Node::start_with("http2", &[address], config);
        let usage = Arc::clone(&node.proxy().shared.usage);
        let mut client = http2_client(&node).await;
        let slow: Vec<_> = (0..40)
            .map(|_| tokio::spawn(client.send_request(post("slow", vec![7; 4 * WINDOW]))))
            .collect();
        eventually("room is made", || usage.buffered() >= least).await;
        if least > MIB {
            let sent = client.send_request(post("short", vec![7]));
            let response = within(sent).await.unwrap();
            assert_eq!(response.status(), 200);
            within(response.into_body().collect()).await.unwrap();
        }
        assert!(usage.buffered() <= most, "{}", usage.buffered());
        for asked in slow {
            asked.abort();
        }
        drop(client);
        eventually("it is given back", || usage.buffered() == 0).await;
    }
}

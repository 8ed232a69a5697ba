//! A relay with nothing added: what tokio and hyper alone cost. The benchmark compares the agent with it.
//!
//! `relay http1|http2|tcp LISTEN ENDPOINT`: one thread, and for HTTP one pool of connections to the endpoint.
#![expect(
    clippy::print_stderr,
    reason = "a tool of the benchmark talks to a person"
)]

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use http::header::{self, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a buffer of an opaque connection, each way.
const BUFFER: usize = 64 * 1024;

type Upstream = Client<HttpConnector, Incoming>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [mode @ ("http1" | "http2" | "tcp"), listen, endpoint] => serve(mode, listen, endpoint),
        _ => Err(io::Error::other(
            "usage: relay http1|http2|tcp LISTEN ENDPOINT",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mode: &str, listen: &str, endpoint: &str) -> io::Result<()> {
    let address = |text: &str| text.parse::<SocketAddr>().map_err(io::Error::other);
    let (listen, endpoint) = (address(listen)?, address(endpoint)?);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let listener = TcpListener::bind(listen).await?;
            match mode {
                "tcp" => opaque(listener, endpoint).await,
                mode => http(listener, endpoint, mode == "http2").await,
            }
        })
}

async fn opaque(listener: TcpListener, endpoint: SocketAddr) -> io::Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        drop(tokio::spawn(async move {
            let mut upstream = TcpStream::connect(endpoint).await?;
            client.set_nodelay(true)?;
            upstream.set_nodelay(true)?;
            copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await
        }));
    }
}

async fn http(listener: TcpListener, endpoint: SocketAddr, is_http2: bool) -> io::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let upstream: Upstream = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(1_024)
        .http2_only(is_http2)
        .build(connector);
    let endpoint = Authority::try_from(endpoint.to_string()).map_err(io::Error::other)?;
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        let (upstream, endpoint) = (upstream.clone(), endpoint.clone());
        let service = service_fn(move |request| {
            forward(upstream.clone(), endpoint.clone(), request, is_http2)
        });
        let io = TokioIo::new(client);
        // How a connection ends is its client's business.
        drop(tokio::spawn(async move {
            if is_http2 {
                drop(
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await,
                );
            } else {
                drop(http1::Builder::new().serve_connection(io, service).await);
            }
        }));
    }
}

async fn forward(
    upstream: Upstream,
    endpoint: Authority,
    mut request: Request<Incoming>,
    is_http2: bool,
) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
    let mut target = http::uri::Parts::default();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(endpoint);
    let path = request.uri().path_and_query().cloned();
    target.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    *request.version_mut() = if is_http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    if is_http2 {
        request.headers_mut().remove(header::HOST);
    }
    remove_hop_by_hop(request.headers_mut());
    let mut response = upstream.request(request).await?;
    remove_hop_by_hop(response.headers_mut());
    Ok(response)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in [
        header::CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

//! Clients inside a pod: connections that are kept, and single HTTP exchanges.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::protocol::{Answer, Connected, Failure, HttpAnswer, HttpCall};

/// What a single exchange may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// A connection that is kept. Both directions can be used at the same time.
pub(crate) struct Connection {
    reader: Mutex<OwnedReadHalf>,
    writer: Mutex<OwnedWriteHalf>,
}

impl Connection {
    pub(crate) fn of(conn: u64, stream: TcpStream) -> Result<(Self, Connected), Failure> {
        let connected = Connected {
            conn,
            local: stream.local_addr()?,
            peer: stream.peer_addr()?,
        };
        let (reader, writer) = stream.into_split();
        let connection = Self {
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
        };
        Ok((connection, connected))
    }

    pub(crate) async fn send(&self, text: &str) -> Result<Answer, Failure> {
        let mut writer = self.writer.lock().await;
        within(writer.write_all(text.as_bytes())).await?;
        Ok(Answer::Done)
    }

    pub(crate) async fn receive(&self, length: usize) -> Result<Answer, Failure> {
        let mut reader = self.reader.lock().await;
        let mut received = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match within(reader.read(&mut received[filled..])).await? {
                0 => break,
                more => filled += more,
            }
        }
        received.truncate(filled);
        let text = String::from_utf8_lossy(&received).into_owned();
        Ok(Answer::Received(text))
    }

    pub(crate) async fn finish_sending(&self) -> Result<Answer, Failure> {
        self.writer.lock().await.shutdown().await?;
        Ok(Answer::Done)
    }
}

/// Opens a connection with a socket of the family that the address is written in.
pub(crate) async fn dial(address: SocketAddr, bind: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(bind) = bind {
        socket.bind(bind)?;
    }
    let stream = within(socket.connect(address)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a connection with an MPTCP socket.
pub(crate) async fn dial_multipath(address: SocketAddr) -> io::Result<TcpStream> {
    let protocol = Protocol::from(libc::IPPROTO_MPTCP);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    within(socket.connect(address)).await
}

/// One HTTP exchange on a connection of its own.
pub(crate) async fn call(call: HttpCall) -> Result<HttpAnswer, Failure> {
    let stream = TokioIo::new(dial(call.address, None).await?);
    let request = request_of(&call)?;
    let exchange = async {
        if call.http2 {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            let connection = tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            let answer = answer_of(response).await;
            connection.abort();
            answer
        } else {
            let (mut sender, connection) = http1::handshake(stream).await?;
            let connection = tokio::spawn(connection.with_upgrades());
            let response = sender.send_request(request).await?;
            let answer = answer_of(response).await;
            connection.abort();
            answer
        }
    };
    within(async { exchange.await.map_err(io::Error::other) })
        .await
        .map_err(Into::into)
}

fn request_of(call: &HttpCall) -> Result<Request<Full<Bytes>>, Failure> {
    let uri = if call.http2 {
        format!("http://{}{}", call.host, call.path)
    } else {
        call.path.clone()
    };
    let uri: Uri = uri.parse().map_err(io::Error::other)?;
    let mut request = Request::builder().method(call.method.as_str()).uri(uri);
    if !call.http2 {
        request = request.header("host", &call.host);
    }
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    let body = Full::new(Bytes::from(call.body.clone()));
    request
        .body(body)
        .map_err(|error| io::Error::other(error).into())
}

/// Reads a response to its end.
pub(crate) async fn answer_of(response: http::Response<Incoming>) -> hyper::Result<HttpAnswer> {
    let status = response.status().as_u16();
    let headers = fields(response.headers());
    let body = response.into_body().collect().await?;
    let trailers = body.trailers().map(fields).unwrap_or_default();
    Ok(HttpAnswer {
        status,
        headers,
        trailers,
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    })
}

/// Header fields as text.
pub(crate) fn fields(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(DEADLINE, work).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

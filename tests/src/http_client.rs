//! One HTTP/1.1 exchange from the test process, over a socket that somebody made in the right namespace.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::client::answer_of;
use crate::protocol::HttpAnswer;

/// Sends a request and reads the response to its end.
pub(crate) fn exchange(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
    deadline: Duration,
) -> io::Result<HttpAnswer> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        stream.set_nonblocking(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let work = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let answer = answer_of(sender.send_request(request).await?).await;
            connection.abort();
            answer
        };
        match timeout(deadline, work).await {
            Ok(answer) => answer.map_err(io::Error::other),
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    })
}

//! Connections that stand and have nothing to say: what they cost is what is measured.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::dial;

/// Opens connections one after the other. With `is_http` each has carried a request and its answer.
pub(crate) async fn open(
    address: SocketAddr,
    connections: u64,
    is_http: bool,
) -> io::Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut stream = dial(address, None).await?;
        let exchange: &[u8] = if is_http {
            b"GET / HTTP/1.1\r\nhost: idle\r\n\r\n"
        } else {
            b"a line that an echo sends back\n"
        };
        stream.write_all(exchange).await?;
        if is_http {
            read_answer(&mut stream).await?;
        } else {
            let mut back = vec![0; exchange.len()];
            stream.read_exact(&mut back).await?;
        }
        held.push(stream);
    }
    Ok(held)
}

async fn read_answer(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = Vec::with_capacity(4_096);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if answer_length(&answer)?.is_some_and(|length| answer.len() >= length) {
            return Ok(());
        }
    }
}

/// How long an HTTP/1.1 answer is, head and body, once that is known. It must be a 200, with a `content-length` or in chunks.
pub(crate) fn answer_length(answer: &[u8]) -> io::Result<Option<usize>> {
    const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(io::Error::other(head));
    }
    if head.contains("transfer-encoding: chunked") {
        // From the end of the head: there may be no other chunk.
        let chunks = &answer[end + 2..];
        let mut windows = chunks.windows(LAST_CHUNK.len());
        let last = windows.position(|window| window == LAST_CHUNK);
        return Ok(last.map(|at| end + 2 + at + LAST_CHUNK.len()));
    }
    let length = head.lines().find_map(|line| {
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    match length {
        Some(length) => Ok(Some(end + 4 + length)),
        None => Err(io::Error::other(head)),
    }
}

#[cfg(test)]
mod tests {
    use super::answer_length;

    #[test]
    fn an_answer_is_as_long_as_its_head_says() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(answer_length(answer).unwrap(), Some(answer.len()));
        assert_eq!(answer_length(&answer[..20]).unwrap(), None);
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let whole = format!("{head}3\r\nabc\r\n0\r\n\r\n");
        let length = answer_length(whole.as_bytes()).unwrap();
        assert_eq!(length, Some(whole.len()));
        assert_eq!(answer_length(&whole.as_bytes()[..50]).unwrap(), None);
        let empty = format!("{head}0\r\n\r\n");
        let length = answer_length(empty.as_bytes()).unwrap();
        assert_eq!(length, Some(empty.len()));
        assert!(answer_length(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}

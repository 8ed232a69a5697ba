//! A connection to the API that is used again: a request costs the client nothing but the request.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use mesh_tests::api::ADDRESS;

/// What one exchange may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// One connection.
pub(super) struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Wire {
    /// Connects, in the network namespace of the caller.
    pub(super) fn open() -> io::Result<Self> {
        let stream = TcpStream::connect(ADDRESS)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// Sends a request, and reads the answer, which must be a good one.
    pub(super) fn call(&mut self, method: &str, path: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {ADDRESS}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes())?;
        self.received.clear();
        while !self.is_whole()? {
            let mut bytes = [0; 16_384];
            let count = self.stream.read(&mut bytes)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.extend(bytes.iter().take(count));
        }
        if self.received.starts_with(b"HTTP/1.1 2") {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&self.received);
        Err(io::Error::other(format!("{method} {path}: {answer}")))
    }

    fn is_whole(&self) -> io::Result<bool> {
        let Some(end) = (self.received.windows(4)).position(|window| window == b"\r\n\r\n") else {
            return Ok(false);
        };
        let head = self.received.get(..end).unwrap_or_default();
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let value = value.trim().parse::<usize>().ok()?;
            (name == "content-length").then_some(value)
        });
        let length = length.ok_or_else(|| io::Error::other(head))?;
        Ok(self.received.len() >= end + 4 + length)
    }
}

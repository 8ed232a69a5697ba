//! Answers whose end a client of HTTP/1 cannot see.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

use super::fixture::{Node, server, within};

/// What a client that says `request` gets until the end of the connection, and that end.
async fn read_all(node: &Node, request: &str) -> (String, io::Result<usize>) {
    let mut stream = node.connect().await;
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut bytes = Vec::new();
    let end = within(stream.read_to_end(&mut bytes)).await;
    (String::from_utf8_lossy(&bytes).into_owned(), end)
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole_where_its_end_is_that_of_the_connection() {
    for (answer, is_whole) in [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            true,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nabc", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", true),
    ] {
        let (address, _server) = server(move |mut stream| async move {
            let length = stream.read(&mut [0; 1024]).await?;
            assert!(length > 0);
            stream.write_all(answer.as_bytes()).await?;
            // What is sent without a pause may be lost with the reset.
            sleep(Duration::from_millis(100)).await;
            stream.shutdown().await
        })
        .await;
        let node = Node::start("http", &[address]);
        let (got, end) = read_all(&node, "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        assert!(got.ends_with("\r\n\r\nabc"), "{answer:?} gave {got}");
        match end {
            Ok(_) => assert!(is_whole, "{answer:?}"),
            Err(error) => {
                assert!(!is_whole, "{answer:?}: {error}");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
        }
    }
}

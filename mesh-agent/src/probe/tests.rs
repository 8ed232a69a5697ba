//! What it means that there is no connection.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Knows no sockets; whether they can be marked.
struct Table(bool);

impl ConnTable for Table {
    fn conn(&self, _socket: BorrowedFd<'_>) -> io::Result<Option<Conn>> {
        Ok(None)
    }

    fn mark(&self, _socket: BorrowedFd<'_>, _conn: &Conn) -> io::Result<()> {
        let full = || Err(io::Error::from(io::ErrorKind::OutOfMemory));
        if self.0 { Ok(()) } else { full() }
    }
}

fn probe(can_mark: bool, address: SocketAddr, places: Vec<Arc<Netns>>) -> Probe {
    Probe {
        table: Arc::new(Table(can_mark)),
        places,
        address,
        service: 0,
        endpoint: 0,
        question: Question::Connect,
        tls: None,
        limit: Duration::from_secs(5),
    }
}

fn here() -> Arc<Netns> {
    Arc::new(Netns::current().expect("opens"))
}

/// A namespace that leads nowhere. `None` where this takes root, which the tests of whole agents have.
fn nowhere() -> Option<Arc<Netns>> {
    let made = std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
        Err(Errno::EPERM) => None,
        result => {
            result.expect("unshares");
            Some(here())
        }
    });
    made.join().expect("no panic")
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

#[tokio::test]
async fn what_one_place_cannot_reach_is_asked_from_the_next() {
    let Some(nowhere) = nowhere() else { return };
    let (_listener, address) = listener();
    let shown = |places| async move { probe(true, address, places).run().await };
    let seen = shown(vec![Arc::clone(&nowhere), here()]).await;
    assert_eq!(seen.expect("asked").status, HealthStatus::Passing);
    let seen = shown(vec![nowhere]).await.expect("asked");
    assert_eq!(seen.status, HealthStatus::Critical);
    assert!(seen.output.contains("unreachable"), "{}", seen.output);
}

#[tokio::test]
async fn who_refuses_is_not_asked_from_elsewhere() {
    let Some(nowhere) = nowhere() else { return };
    let (listener, address) = listener();
    drop(listener);
    let seen = probe(true, address, vec![here(), nowhere]).run().await;
    let seen = seen.expect("asked");
    assert!(seen.output.contains("refused"), "{}", seen.output);
}

#[tokio::test]
async fn without_a_socket_nothing_is_seen() {
    let (_listener, address) = listener();
    assert!(probe(false, address, vec![here()]).run().await.is_err());
    assert!(probe(true, address, Vec::new()).run().await.is_err());
}

#[test]
fn a_place_without_a_route_or_with_a_rule_is_to_blame_itself() {
    use libc::{EACCES, EADDRNOTAVAIL, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EPERM, ETIMEDOUT};
    let is_of_place = |code: &i32| is_of_place(&io::Error::from_raw_os_error(*code));
    let of_place = [ENETUNREACH, EADDRNOTAVAIL, EPERM, EACCES];
    assert!(of_place.iter().all(is_of_place));
    assert!(
        !([ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT]
            .iter()
            .any(is_of_place))
    );
}

/// What a request shows that must find `text`, of an endpoint that answers with `answer` and then hangs.
async fn asked(answer: String, text: &str, limit: Duration) -> Shown {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("binds");
    let address = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.read_buf(&mut Vec::with_capacity(4096)).await?;
        // Who has seen enough reads no more.
        drop(stream.write_all(answer.as_bytes()).await);
        std::future::pending::<io::Result<()>>().await
    });
    let question = Question::Http(Box::new(Ask {
        method: Method::GET,
        path: PathAndQuery::from_static("/health"),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        good: Statuses::parse(&["200".to_owned()]),
        warning: Statuses::default(),
        text: Some(text.to_owned()),
        is_body_shown: false,
    }));
    let probe = Probe {
        question,
        limit,
        ..probe(true, address, vec![here()])
    };
    let shown = tokio::time::timeout(Duration::from_secs(20), probe.run()).await;
    server.abort();
    shown.expect("in time").expect("asked")
}

#[tokio::test]
async fn who_gives_no_answer_in_time_is_critical() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nbegin"] {
        let shown = asked(answer.to_owned(), "end", Duration::from_millis(100)).await;
        assert_eq!(shown, critical("no answer within 100ms".to_owned()));
    }
}

#[tokio::test]
async fn what_stands_behind_the_first_64_kib_of_a_body_is_not_looked_for() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
    let filling = "x".repeat(MAX_BODY - "near".len());
    let answer = format!("{head}{filling}nearfar{filling}");
    let patience = Duration::from_secs(10);
    let shown = asked(answer.clone(), "near", patience).await;
    assert_eq!(shown.status, HealthStatus::Passing, "{}", shown.output);
    let shown = asked(answer, "far", patience).await;
    assert_eq!(shown.status, HealthStatus::Critical);
    assert!(
        shown.output.contains("without the text"),
        "{}",
        shown.output
    );
}

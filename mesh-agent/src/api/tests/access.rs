//! Who is let in: names, origins, tokens, sockets.

use std::os::unix::fs::PermissionsExt as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::api::{BindError, TokenError};

fn with_header(name: &str, value: &str) -> Request<Body> {
    let request = Request::get("/api/v1/services").header(name, value);
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn only_names_of_the_agent_are_answered() {
    let fixture = Fixture::new().await;
    let port = fixture.address.port();
    let check = async |name: &str, value: &str, status: u16| {
        let answer = fixture.send(with_header(name, value)).await;
        assert_eq!(answer.status, status, "{name}: {value}");
        if status == 403 {
            assert!(answer.problem().1.eq_ignore_ascii_case(name));
        }
    };
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "[::1]:15000",
        "agent.example",
    ] {
        check("host", host, 200).await;
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "",
        "a b",
        "user@evil",
    ] {
        check("host", host, 403).await;
    }
    check("origin", &format!("http://127.0.0.1:{port}"), 200).await;
    check("origin", "https://agent.example", 200).await;
    for origin in [
        "null",
        "https://evil.example",
        "http://localhost.evil.example",
        "",
    ] {
        check("origin", origin, 403).await;
    }
    fixture.stop().await;
}

#[tokio::test]
async fn token_is_asked_for_where_one_is_configured() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "0123456789abcdef\n").unwrap();
    let fixture = Fixture::with(Config {
        token_file: Some(token_file),
        ..config()
    })
    .await;
    let check = async |value: &str, status: u16| {
        let answer = fixture.send(with_header("authorization", value)).await;
        assert_eq!(answer.status, status, "{value}");
        if status == 401 {
            assert_eq!(answer.problem().1, "Authorization");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    };
    check("Bearer 0123456789abcdef", 200).await;
    check("bearer 0123456789abcdef", 200).await;
    check("Bearer 0123456789abcdeX", 401).await;
    check("Bearer 0123456789abcdef0", 401).await;
    check("Bearer ", 401).await;
    check("Basic 0123456789abcdef", 401).await;
    assert_eq!(fixture.get("/api/v1/services").await.status, 401);
    assert_eq!(fixture.get("/metrics").await.status, 401);
    assert_eq!(fixture.get("/readyz").await.status, 200);
    fixture.stop().await;
}

#[tokio::test]
async fn listener_that_others_reach_needs_a_good_token() {
    let bind = async |token_file| {
        let config = Config {
            listen: "0.0.0.0:0".parse().unwrap(),
            token_file,
            ..config()
        };
        let store = Arc::new(Store::in_memory());
        Server::bind(config, store, Arc::new(FixedNode::default())).await
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    assert!(matches!(bind(None).await, Err(BindError::Unguarded { .. })));
    assert!(matches!(
        bind(Some(path.clone())).await,
        Err(BindError::Token(TokenError::Read { .. }))
    ));
    std::fs::write(&path, "short\n").unwrap();
    assert!(matches!(
        bind(Some(path.clone())).await,
        Err(BindError::Token(TokenError::Short { .. }))
    ));
    std::fs::write(&path, "0123456789abcdef").unwrap();
    assert!(bind(Some(path)).await.is_ok());
}

#[tokio::test]
async fn unix_socket_is_private_replaces_a_stale_one_and_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let wanted = Config {
        unix: Some(path.clone()),
        ..config()
    };
    let fixture = Fixture::with(wanted.clone()).await;

    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let second = Server::bind(
        wanted,
        Arc::new(Store::in_memory()),
        Arc::new(FixedNode::default()),
    )
    .await;
    assert!(matches!(second, Err(BindError::Unix { .. })));
    fixture.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn listener_for_probes_serves_nothing_else() {
    let fixture = Fixture::new().await;
    let get = async |path: &str| {
        let request = Request::get(path).header(HOST, "prometheus.example");
        let request = request.body(Body::empty()).unwrap();
        send(fixture.metrics, request).await
    };
    assert_eq!(get("/metrics").await.text, "# EOF\n");
    assert_eq!(get("/healthz").await.status, 200);
    assert_eq!(get("/readyz").await.status, 200);
    let absent = get("/api/v1/services").await;
    assert_eq!(absent.problem().0, 404);
    assert!(
        absent.text.contains("/metrics") && !absent.text.contains("/docs"),
        "{}",
        absent.text
    );
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn client_that_says_nothing_is_cut_off() {
    let fixture = Fixture::new().await;
    let mut silent = TcpStream::connect(fixture.address).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_mins(1), silent.read_to_end(&mut answer));
    assert!(read.await.is_ok(), "the connection is closed");

    let mut slow = TcpStream::connect(fixture.address).await.unwrap();
    let head = format!("PUT {WEB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{");
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_mins(1), slow.read_to_string(&mut answer));
    assert!(read.await.is_ok(), "the connection is closed");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    fixture.stop().await;
}

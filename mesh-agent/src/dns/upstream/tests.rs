//! Who is asked next, and what is passed on.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::net::conn::NoTable;

/// How long an exchange may take; half of it until the spare is asked.
const LIMIT: Duration = Duration::from_secs(2);

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Answers one datagram with `text` behind its number.
async fn resolver(text: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let answers = tokio::spawn(async move {
        let mut question = [0; 512];
        let (_, from) = socket.recv_from(&mut question).await.unwrap();
        let answer = [&question[..2], text.as_bytes()].concat();
        socket.send_to(&answer, from).await.unwrap();
    });
    (address, answers)
}

async fn ask(address: SocketAddr, spare: Option<SocketAddr>) -> io::Result<Vec<u8>> {
    let netns = Netns::current().unwrap();
    let upstream = Upstream {
        netns: &netns,
        conns: &NoTable,
        address,
        spare,
        conn: Conn::default(),
        limit: LIMIT,
    };
    upstream.datagram(b"47?").await
}

#[tokio::test]
async fn spare_is_asked_where_the_first_is_silent_or_refuses() {
    let silent = UdpSocket::bind(loopback()).await.unwrap();
    let (spare, _answers) = resolver("spare").await;
    let answer = ask(silent.local_addr().unwrap(), Some(spare)).await;
    assert_eq!(answer.unwrap(), b"47spare");

    let closed = UdpSocket::bind(loopback()).await.unwrap();
    let refuses = closed.local_addr().unwrap();
    drop(closed);
    let (spare, _answers) = resolver("spare").await;
    assert_eq!(ask(refuses, Some(spare)).await.unwrap(), b"47spare");
    assert!(ask(refuses, None).await.is_err());
}

#[tokio::test]
async fn answer_of_the_first_counts_while_the_spare_is_asked() {
    let first = UdpSocket::bind(loopback()).await.unwrap();
    let spare = UdpSocket::bind(loopback()).await.unwrap();
    let late = first.local_addr().unwrap();
    let spare_address = spare.local_addr().unwrap();
    let serve = async {
        let mut question = [0; 512];
        let (_, from) = first.recv_from(&mut question).await.unwrap();
        spare.recv_from(&mut question).await.unwrap();
        first.send_to(b"47late", from).await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(late, Some(spare_address)), serve);
    assert_eq!(answer.unwrap(), b"47late");
}

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap());
    let (connected, accepted) = tokio::join!(connected, listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn every_message_of_a_zone_is_passed_on() {
    let ((mut client, mut inner), (mut outer, mut server)) = tokio::join!(pair(), pair());
    let relayed = async {
        relay(&mut inner, &mut outer, LIMIT).await;
        drop((inner, outer));
    };
    let serves = async move {
        assert_eq!(read_message(&mut server).await.unwrap(), b"more");
        for number in 0..100 {
            write_message(&mut server, &[number; 1000]).await.unwrap();
        }
    };
    let reads = async {
        write_message(&mut client, b"more").await.unwrap();
        client.shutdown().await.unwrap();
        for number in 0..100 {
            assert_eq!(read_message(&mut client).await.unwrap(), [number; 1000]);
        }
        let end = client.read_u8().await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    };
    tokio::join!(relayed, serves, reads);
}

#[tokio::test]
async fn silent_transfer_ends() {
    let ((_client, mut inner), (mut outer, _server)) = tokio::join!(pair(), pair());
    relay(&mut inner, &mut outer, Duration::from_millis(50)).await;
}

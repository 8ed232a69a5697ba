//! Tests against the kernel: sockets on loopback, which everybody may list.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use super::{TcpSocket, destroy, state, visit};

fn find(states: u32, is: impl Fn(&TcpSocket) -> bool) -> Vec<TcpSocket> {
    let mut found = Vec::new();
    visit(states, None, |socket| {
        if is(&socket) {
            found.push(socket);
        }
        true
    })
    .expect("a dump");
    found
}

#[test]
fn a_connection_is_listed_with_its_bytes() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).expect("a listener");
        let server_address = listener.local_addr().expect("its address");
        let mut client = TcpStream::connect(server_address).expect("a connection");
        let (mut server, _) = listener.accept().expect("the other end");
        client.write_all(b"four").expect("a write");
        let mut buffer = [0; 4];
        server.read_exact(&mut buffer).expect("what was written");
        server.write_all(b"sixsix").expect("a write");
        let mut buffer = [0; 6];
        client.read_exact(&mut buffer).expect("what was written");

        let local = client.local_addr().expect("an address");
        let found = find(1 << state::ESTABLISHED, |socket| socket.local == local);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].remote, server_address);
        assert_eq!(found[0].info.bytes_sent, 4);
        assert_eq!(found[0].info.bytes_received, 6);
        assert_ne!(found[0].cookie, 0);
        assert!(found[0].conn.is_none());

        let listening = find(1 << state::LISTEN, |socket| socket.local == server_address);
        assert_eq!(listening.len(), 1);
    }
}

#[test]
fn a_visitor_that_has_enough_gets_no_more() {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a listener"));
    let mut seen = 0;
    visit(1 << state::LISTEN, None, |_| {
        seen += 1;
        seen < 2
    })
    .expect("a dump");
    assert_eq!(seen, 2);
    drop(listeners);
}

#[test]
fn a_socket_is_ended_and_another_with_its_addresses_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let server = listener.local_addr().expect("its address");
    let mut client = TcpStream::connect(server).expect("a connection");
    let (_accepted, _) = listener.accept().expect("the other end");
    let local = client.local_addr().expect("an address");
    let found = find(1 << state::ESTABLISHED, |socket| socket.local == local);
    let mut other = found[0];
    // The cookie stands at the end of what names a socket.
    other.id[47] ^= 1;
    match destroy(&other) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return,
        ended => assert!(!ended.expect("an answer")),
    }
    client.write_all(b"still there").expect("a write");
    assert!(destroy(&found[0]).expect("an answer"));
    let error = client.read(&mut [0]).expect_err("it is reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    assert!(!destroy(&found[0]).expect("an answer"));
}

//! A resolver for tests, and questions to one.
//!
//! It knows the domain `example.com`: `host` has an address for a minute, `whoami` a text with the resolver's name for no
//! time at all, `missing` is not there for a minute, and a type that nobody knows has three bytes everywhere. Everything
//! else it refuses.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, NULL, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::datagram::bind;
use crate::protocol::{Failure, How, Named, Question, Seen};

/// A type of records that is not assigned.
pub const UNKNOWN: u16 = 65_280;

/// The address of `host.example.com`.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// What an answer may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Answers until it is stopped.
pub(crate) fn serve(
    name: String,
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
) -> io::Result<impl Future<Output = ()>> {
    let datagrams = bind(address)?;
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let streams = socket.listen(64)?;
    Ok(async move {
        let over_tcp = serve_streams(&name, streams, &seen);
        tokio::join!(serve_datagrams(&name, datagrams, &seen), over_tcp);
    })
}

async fn serve_datagrams(name: &str, socket: UdpSocket, seen: &Mutex<Seen>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // Of an answer that could not be delivered the next call tells.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        note(seen, from);
        if let Some(answer) = answer(name, &buffer[..length]) {
            drop(socket.send_to(&answer, from).await);
        }
    }
}

async fn serve_streams(name: &str, listener: TcpListener, seen: &Mutex<Seen>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            continue;
        };
        note(seen, from);
        connections.spawn(converse(name.to_owned(), stream));
    }
}

async fn converse(name: String, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let question = read(&mut stream).await?;
        if let Some(answer) = answer(&name, &question) {
            write(&mut stream, &answer).await?;
        }
    }
}

fn note(seen: &Mutex<Seen>, from: SocketAddr) {
    let mut seen = seen.lock().unwrap();
    seen.connections += 1;
    let source = from.ip().to_canonical().to_string();
    *seen.sources.entry(source).or_default() += 1;
}

fn answer(server: &str, question: &[u8]) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    let name = query.name.to_lowercase().to_ascii();
    let kind = query.query_type;
    let record = |ttl, data| Record::from_rdata(query.name.clone(), ttl, data);
    match (name.as_str(), kind) {
        (_, RecordType::Unknown(UNKNOWN)) => {
            let rdata = NULL::with(vec![1, 2, 3]);
            answer.add_answer(record(0, RData::Unknown { code: kind, rdata }));
        }
        ("host.example.com.", RecordType::A) => {
            answer.add_answer(record(60, RData::A(A(HOST))));
        }
        ("whoami.example.com.", RecordType::TXT) => {
            let text = TXT::new(vec![server.to_owned()]);
            answer.add_answer(record(0, RData::TXT(text)));
        }
        ("missing.example.com.", _) => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(authority());
        }
        ("host.example.com." | "whoami.example.com.", _) => {
            answer.add_authority(authority());
        }
        _ => answer.metadata.response_code = ResponseCode::Refused,
    }
    answer.add_query(query);
    answer.to_vec().ok()
}

fn authority() -> Record {
    let domain = Name::from_ascii("example.com.").unwrap();
    let soa = SOA::new(domain.clone(), domain.clone(), 1, 60, 60, 60, 60);
    Record::from_rdata(domain, 60, RData::SOA(soa))
}

/// Asks, and waits for as many answers as resolvers were asked.
pub(crate) async fn ask(question: Question) -> Result<Vec<Named>, Failure> {
    let answers = timeout(DEADLINE, async {
        match question.how {
            How::Unconnected => unconnected(&question).await,
            How::Connected => connected(&question).await,
            How::Tcp => over_tcp(&question).await,
        }
    });
    let answers = answers
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(answers)
}

async fn unconnected(question: &Question) -> io::Result<Vec<Named>> {
    let socket = bind(any(question.resolvers[0]))?;
    for (id, resolver) in (1..).zip(&question.resolvers) {
        socket.send_to(&message(question, id), resolver).await?;
    }
    let mut answers = Vec::new();
    let mut buffer = vec![0; 65_536];
    while answers.len() < question.resolvers.len() {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        answers.push(named(from, &buffer[..length])?);
    }
    Ok(answers)
}

async fn connected(question: &Question) -> io::Result<Vec<Named>> {
    let mut answers = Vec::new();
    for resolver in &question.resolvers {
        let socket = bind(any(*resolver))?;
        socket.connect(resolver).await?;
        socket.send(&message(question, 1)).await?;
        let mut buffer = vec![0; 65_536];
        let (length, from) = socket.recv_from(&mut buffer).await?;
        assert_eq!(socket.peer_addr()?, *resolver);
        answers.push(named(from, &buffer[..length])?);
    }
    Ok(answers)
}

async fn over_tcp(question: &Question) -> io::Result<Vec<Named>> {
    let mut answers = Vec::new();
    for resolver in &question.resolvers {
        let mut stream = TcpStream::connect(resolver).await?;
        // Two on one connection.
        for id in [1, 2] {
            write(&mut stream, &message(question, id)).await?;
            let answer = read(&mut stream).await?;
            answers.push(named(stream.peer_addr()?, &answer)?);
        }
        answers.pop();
    }
    Ok(answers)
}

const fn any(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        SocketAddr::V6(_) => SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    }
}

fn message(question: &Question, id: u16) -> Vec<u8> {
    let name = Name::from_ascii(&question.name).unwrap();
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, RecordType::from(question.kind)));
    message.to_vec().unwrap()
}

fn named(from: SocketAddr, bytes: &[u8]) -> io::Result<Named> {
    let answer = Message::from_vec(bytes).map_err(io::Error::other)?;
    let data = |records: &[Record]| records.iter().map(|it| it.data.to_string()).collect();
    let authorities = answer.authorities.iter();
    Ok(Named {
        from,
        code: answer.metadata.response_code.to_string(),
        records: data(&answer.answers),
        authorities: authorities.map(|record| record.name.to_string()).collect(),
        ttl: answer.answers.first().map(|record| record.ttl),
    })
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let mut framed = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

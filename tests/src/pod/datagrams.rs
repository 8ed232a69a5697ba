//! Datagram sockets of a pod.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Answer, Connected, Failure, Pod, Server, Task};
use crate::protocol::{How, Named, Question, ServerKind};

/// How long an answer may take, in milliseconds.
const PATIENCE: u64 = 5_000;

impl Pod {
    /// Answers datagrams on a port of every address, under a name.
    #[track_caller]
    pub fn serve_datagrams(&self, name: &str, port: u16) -> Server<'_> {
        let name = name.to_owned();
        self.serve_v6(ServerKind::Datagrams { name }, port)
    }

    /// Answers questions for names at an address, under a name.
    #[track_caller]
    pub fn serve_names(&self, name: &str, at: SocketAddr) -> Server<'_> {
        let name = name.to_owned();
        self.serve_at(ServerKind::Resolver { name }, at)
    }

    /// Asks a resolver for a name, once.
    #[track_caller]
    pub fn ask(
        &self,
        resolver: SocketAddr,
        name: &str,
        kind: u16,
        how: How,
    ) -> Result<Named, Failure> {
        let mut answers = self.ask_all(&[resolver], name, kind, how)?;
        Ok(answers.pop().expect("an answer"))
    }

    /// Asks resolvers for a name, from one socket if it is not connected.
    #[track_caller]
    pub fn ask_all(
        &self,
        resolvers: &[SocketAddr],
        name: &str,
        kind: u16,
        how: How,
    ) -> Result<Vec<Named>, Failure> {
        let task = Task::Ask(Question {
            resolvers: resolvers.to_vec(),
            name: name.to_owned(),
            kind,
            how,
        });
        match self.perform(task)? {
            Answer::Named(answers) => Ok(answers),
            other => panic!("{other:?}"),
        }
    }

    /// An IPv4 socket that is not connected.
    #[track_caller]
    pub fn datagrams(&self) -> Datagrams<'_> {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        self.datagrams_at(any, None).expect("a socket")
    }

    /// An IPv6 socket that is not connected.
    #[track_caller]
    pub fn datagrams_v6(&self) -> Datagrams<'_> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        self.datagrams_at(any, None).expect("a socket")
    }

    /// A connected socket of the address's family.
    #[track_caller]
    pub fn connect_datagrams(&self, to: SocketAddr) -> Result<Datagrams<'_>, Failure> {
        let any = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.datagrams_at(SocketAddr::new(any, 0), Some(to))
    }

    /// A socket that is bound first.
    #[track_caller]
    pub fn datagrams_at(
        &self,
        bind: SocketAddr,
        connect: Option<SocketAddr>,
    ) -> Result<Datagrams<'_>, Failure> {
        match self.perform(Task::OpenDatagrams { bind, connect })? {
            Answer::Connected(connected) => Ok(Datagrams {
                pod: self,
                connected,
            }),
            other => panic!("{other:?}"),
        }
    }
}

/// A datagram socket that a pod keeps.
#[derive(Debug)]
pub struct Datagrams<'a> {
    pod: &'a Pod,
    connected: Connected,
}

impl Datagrams<'_> {
    /// What `getpeername` said when it was connected.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.connected.peer
    }

    /// What `getsockname` said.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.connected.local
    }

    /// Sends a datagram to an address.
    #[track_caller]
    pub fn send_to(&self, to: SocketAddr, text: &str) -> Result<(), Failure> {
        self.send_with(Some(to), text)
    }

    /// Sends a datagram where the socket is connected to.
    #[track_caller]
    pub fn send(&self, text: &str) -> Result<(), Failure> {
        self.send_with(None, text)
    }

    #[track_caller]
    fn send_with(&self, to: Option<SocketAddr>, text: &str) -> Result<(), Failure> {
        let task = Task::SendDatagram {
            socket: self.connected.conn,
            to,
            text: text.to_owned(),
        };
        self.pod.perform(task).map(drop)
    }

    /// The next datagram, and where it seems to come from.
    #[track_caller]
    pub fn receive(&self) -> Result<(SocketAddr, String), Failure> {
        self.receive_within(PATIENCE)
    }

    /// The same, if it comes soon.
    #[track_caller]
    pub fn receive_within(&self, millis: u64) -> Result<(SocketAddr, String), Failure> {
        let socket = self.connected.conn;
        match self.pod.perform(Task::ReceiveDatagram { socket, millis })? {
            Answer::Datagram { from, text } => Ok((from, text)),
            other => panic!("{other:?}"),
        }
    }

    /// Asks, and says who answered; the answer must come from where the question went.
    #[track_caller]
    pub fn ask(&self, to: SocketAddr) -> String {
        self.send_to(to, "hello").expect("it leaves");
        self.answer_from(to)
    }

    /// The name of who answers, from `from`.
    #[track_caller]
    pub fn answer_from(&self, from: SocketAddr) -> String {
        let (source, text) = self.receive().expect("an answer");
        assert_eq!(source, from, "{text}");
        let name = text.strip_suffix(" hello");
        name.unwrap_or_else(|| panic!("{text}")).to_owned()
    }
}

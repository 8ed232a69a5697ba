//! What the tests tell a pod's helper process, and what it answers: one JSON value per line, matched by number.

mod load;
mod names;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use load::{Load, Pace, Report};
pub use names::{How, Named, Question};

/// A command with its number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Command {
    /// Comes back with the answer.
    pub id: u64,
    /// What to do.
    pub task: Task,
}

/// An answer with the number of its command.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The number of the command.
    pub id: u64,
    /// What came of it.
    pub result: Result<Answer, Failure>,
}

/// What a helper can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Starts a server.
    Serve {
        /// What it does.
        kind: ServerKind,
        /// Where it listens; port 0 takes a free one.
        address: SocketAddr,
    },
    /// Tells what a server has seen.
    Seen {
        /// The number of the server.
        server: u64,
    },
    /// Closes a server's listener and connections.
    StopServer {
        /// The number of the server.
        server: u64,
    },
    /// Opens a connection and keeps it.
    Connect {
        /// What is dialled; a v4-mapped address is dialled by an IPv6 socket.
        address: SocketAddr,
        /// What the socket is bound to before.
        bind: Option<SocketAddr>,
        /// Whether it is an MPTCP socket.
        multipath: bool,
    },
    /// Sends text on a connection.
    Send {
        /// The number of the connection.
        conn: u64,
        /// The bytes.
        text: String,
    },
    /// Receives until `length` bytes, or the end of the stream.
    Receive {
        /// The number of the connection.
        conn: u64,
        /// How many bytes.
        length: usize,
    },
    /// Closes the sending half.
    FinishSending {
        /// The number of the connection.
        conn: u64,
    },
    /// Closes a connection.
    Close {
        /// The number of the connection.
        conn: u64,
    },
    /// Makes a datagram socket and keeps it.
    OpenDatagrams {
        /// What it is bound to.
        bind: SocketAddr,
        /// What it is connected to, if it is.
        connect: Option<SocketAddr>,
    },
    /// Sends a datagram.
    SendDatagram {
        /// The number of the socket.
        socket: u64,
        /// Where to; of a connected socket, nowhere in particular.
        to: Option<SocketAddr>,
        /// The bytes.
        text: String,
    },
    /// Receives a datagram, and asks for its source.
    ReceiveDatagram {
        /// The number of the socket.
        socket: u64,
        /// How long to wait.
        millis: u64,
    },
    /// Asks resolvers for a name, each question on the same socket.
    Ask(Question),
    /// One HTTP exchange on a connection of its own.
    Http(HttpCall),
    /// Many exchanges for a while.
    Load(Load),
    /// Ends loads early; each answers with its report.
    StopLoads,
    /// HTTP/1.1 requests at a fixed rate, whether or not earlier ones have been answered.
    Paced(Pace),
    /// Opens connections and keeps them, with nothing to say.
    Hold {
        /// What is dialled.
        address: SocketAddr,
        /// How many.
        connections: u64,
        /// Whether each sends one HTTP/1.1 request first, and reads the answer.
        is_http: bool,
    },
    /// Closes the connections that are held.
    Release,
    /// Many short connections from blocking threads.
    ManyConnects {
        /// What is dialled.
        address: SocketAddr,
        /// How many.
        connections: u64,
        /// From how many threads.
        threads: u64,
    },
    /// Sends bytes in chunks to a [`ServerKind::Sink`], closes the sending half, and compares what arrived there.
    Upload {
        /// What is dialled.
        address: SocketAddr,
        /// How many bytes.
        bytes: u64,
        /// Per write.
        chunk: usize,
    },
    /// Sends bytes in chunks to an echo, reads them back meanwhile, and compares.
    Echo {
        /// What is dialled.
        address: SocketAddr,
        /// How many bytes.
        bytes: u64,
        /// Per write.
        chunk: usize,
    },
    /// Sends until nothing more is accepted for half a second, or `limit` is reached.
    Fill {
        /// What is dialled.
        address: SocketAddr,
        /// Where to stop.
        limit: u64,
    },
    /// Ping-pong on one connection from a blocking thread.
    RoundTrips {
        /// What is dialled.
        address: SocketAddr,
        /// Bytes each way.
        size: usize,
        /// For how long.
        millis: u64,
    },
    /// Sends for a while as fast as possible to a [`ServerKind::Sink`], from a blocking thread.
    Stream {
        /// What is dialled.
        address: SocketAddr,
        /// For how long.
        millis: u64,
    },
}

/// What a fake server does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ServerKind {
    /// HTTP/1.1 and HTTP/2: says its name in `x-server` and shows the request in a JSON body. Obeys `x-status`,
    /// `x-delay-ms` and `x-body-bytes` (where there is an `x-only`, if that is its name); answers `/sick/NAME/STATUS` with
    /// that status if that is its name, and the health protocol of gRPC that it serves, unless asked after its name; answers gRPC with trailers; accepts upgrades, and echoes on them.
    Http {
        /// Its name.
        name: String,
    },
    /// The same, but one request in `every` waits for `millis` first.
    Hiccup {
        /// Its name.
        name: String,
        /// 1: all of them.
        every: u64,
        /// How long.
        millis: u64,
    },
    /// Sends back what it receives, with half-close.
    Echo,
    /// The same with one blocking thread per connection, as the fastest programs do.
    BlockingEcho,
    /// Says a line first, then echoes.
    Greeting {
        /// The line.
        line: String,
    },
    /// Reads to the end, then says how many bytes it was, and their hash.
    Sink,
    /// The same without looking at the bytes.
    Discard,
    /// Accepts and never reads.
    Deaf,
    /// Accepts and resets.
    Resetting,
    /// Dials another address with the socket that it accepted.
    Redial {
        /// The address.
        address: SocketAddr,
    },
    /// Answers questions for names, over UDP and TCP: see [`crate::resolver`].
    Resolver {
        /// Its name.
        name: String,
        /// Further names that it knows, with their addresses.
        hosts: BTreeMap<String, Vec<IpAddr>>,
    },
    /// Answers datagrams with its name and what it received.
    Datagrams {
        /// Its name.
        name: String,
    },
}

/// One HTTP request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HttpCall {
    /// Where the connection goes.
    pub address: SocketAddr,
    /// The authority.
    pub host: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// More headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// HTTP/2 with prior knowledge.
    pub http2: bool,
}

/// An HTTP response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// Headers, lower-case.
    pub headers: Vec<(String, String)>,
    /// Trailers, lower-case.
    pub trailers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
}

impl HttpAnswer {
    /// A header, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        find(&self.headers, name)
    }

    /// A trailer, or nothing.
    #[must_use]
    pub fn trailer(&self, name: &str) -> &str {
        find(&self.trailers, name)
    }

    /// The body as JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

fn find<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields
        .iter()
        .find(|(field, _)| field == name)
        .map_or("", |(_, value)| value)
}

/// What a server has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Connections accepted, or datagrams received.
    pub connections: u64,
    /// The same by the address that they came from.
    pub sources: BTreeMap<String, u64>,
    /// What came of dialling with accepted sockets.
    pub redials: Vec<Result<(), Failure>>,
}

/// What comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing to say.
    Done,
    /// A server listens.
    Serving {
        /// Its number.
        server: u64,
        /// Where.
        address: SocketAddr,
    },
    /// What a server has seen.
    Seen(Seen),
    /// A connection stands.
    Connected(Connected),
    /// Bytes received; fewer than asked for at the end of the stream.
    Received(String),
    /// A datagram came.
    Datagram {
        /// What the socket was told of its source.
        from: SocketAddr,
        /// The bytes.
        text: String,
    },
    /// What resolvers answered, in the order in which the answers came.
    Named(Vec<Named>),
    /// An HTTP response.
    Http(HttpAnswer),
    /// What came of many exchanges.
    Report(Report),
    /// How many bytes were accepted.
    Filled(u64),
}

/// A connection that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Its number.
    pub conn: u64,
    /// `getsockname`.
    pub local: SocketAddr,
    /// `getpeername`.
    pub peer: SocketAddr,
}

/// Why something did not work, as the program in the pod sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The name of the error, for example `ConnectionRefused`.
    pub kind: String,
    /// The system's number.
    pub errno: Option<i32>,
    /// In words.
    pub message: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            kind: format!("{:?}", error.kind()),
            errno: error.raw_os_error(),
            message: error.to_string(),
        }
    }
}

//! What tests ask of pods, in their own words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc::Receiver;

use super::{Answer, Connected, DEADLINE, Failure, HttpCall, Load, Pod, Report, Task, parse_url};
use crate::protocol::{HttpAnswer, Seen, ServerKind};

impl Pod {
    /// Serves HTTP on a port of every IPv4 address, under a name.
    #[track_caller]
    pub fn serve_http(&self, name: &str, port: u16) -> Server<'_> {
        let name = name.to_owned();
        self.serve(ServerKind::Http { name }, port)
    }

    /// Echoes on a port of every IPv4 address.
    #[track_caller]
    pub fn serve_echo(&self, port: u16) -> Server<'_> {
        self.serve(ServerKind::Echo, port)
    }

    /// Serves on a port of every IPv4 address.
    #[track_caller]
    pub fn serve(&self, kind: ServerKind, port: u16) -> Server<'_> {
        self.serve_at(kind, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
    }

    /// Serves on a port of every IPv6 address.
    #[track_caller]
    pub fn serve_v6(&self, kind: ServerKind, port: u16) -> Server<'_> {
        self.serve_at(kind, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// Serves at an address.
    #[track_caller]
    pub fn serve_at(&self, kind: ServerKind, address: SocketAddr) -> Server<'_> {
        match self.perform(Task::Serve { kind, address }) {
            Ok(Answer::Serving { server, address }) => Server {
                pod: self,
                number: server,
                address,
            },
            other => panic!("pod {} cannot serve at {address}: {other:?}", self.name()),
        }
    }

    /// Opens a connection and keeps it.
    #[track_caller]
    pub fn connect(&self, address: impl Into<SocketAddr>) -> Result<Conn<'_>, Failure> {
        self.connect_from(None, address.into())
    }

    /// Opens a connection from an MPTCP socket.
    #[track_caller]
    pub fn connect_multipath(&self, address: SocketAddr) -> Result<Conn<'_>, Failure> {
        self.dial(Task::Connect {
            address,
            bind: None,
            multipath: true,
        })
    }

    /// Opens a connection from a socket that is bound first.
    #[track_caller]
    pub fn connect_from(
        &self,
        bind: Option<SocketAddr>,
        address: SocketAddr,
    ) -> Result<Conn<'_>, Failure> {
        self.dial(Task::Connect {
            address,
            bind,
            multipath: false,
        })
    }

    fn dial(&self, task: Task) -> Result<Conn<'_>, Failure> {
        match self.perform(task)? {
            Answer::Connected(connected) => Ok(Conn {
                pod: self,
                connected,
            }),
            other => panic!("{other:?}"),
        }
    }

    /// One HTTP/1.1 GET; it must be answered, with whatever status.
    #[must_use]
    #[track_caller]
    pub fn get(&self, url: &str) -> HttpAnswer {
        self.try_get(url)
            .unwrap_or_else(|failure| panic!("GET {url}: {failure:?}"))
    }

    /// One HTTP/1.1 GET.
    #[track_caller]
    pub fn try_get(&self, url: &str) -> Result<HttpAnswer, Failure> {
        self.request("GET", url, &[], "")
    }

    /// One HTTP/1.1 exchange.
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<HttpAnswer, Failure> {
        self.http(call_of(method, url, headers, body))
    }

    /// One HTTP/2 exchange with prior knowledge.
    #[track_caller]
    pub fn request_http2(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<HttpAnswer, Failure> {
        let mut call = call_of(method, url, headers, body);
        call.http2 = true;
        self.http(call)
    }

    #[track_caller]
    fn http(&self, call: HttpCall) -> Result<HttpAnswer, Failure> {
        match self.perform(Task::Http(call))? {
            Answer::Http(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    /// Opens many short connections from blocking threads, each of which sends bytes and wants them back.
    #[must_use]
    #[track_caller]
    pub fn many_connects(&self, address: SocketAddr, connections: u64, threads: u64) -> Report {
        let task = Task::ManyConnects {
            address,
            connections,
            threads,
        };
        self.start(task).wait()
    }

    /// Begins a load; the report comes at its end, or when it is stopped.
    #[track_caller]
    pub fn load(&self, load: Load) -> Running<'_> {
        self.start(Task::Load(load))
    }

    /// Begins a task that ends in a report.
    #[track_caller]
    pub fn start(&self, task: Task) -> Running<'_> {
        Running {
            pod: self,
            receiver: self.begin(task),
        }
    }

    /// Does a task that ends in a report, or fails.
    #[track_caller]
    pub fn measure(&self, task: Task) -> Result<Report, Failure> {
        match self.perform(task)? {
            Answer::Report(report) => Ok(report),
            other => panic!("{other:?}"),
        }
    }

    /// Opens connections and keeps them; with `is_http` each carries one request first.
    pub fn hold(
        &self,
        address: SocketAddr,
        connections: u64,
        is_http: bool,
    ) -> Result<(), Failure> {
        let task = Task::Hold {
            address,
            connections,
            is_http,
        };
        self.perform(task).map(drop)
    }

    /// Closes the connections that are held.
    pub fn release(&self) -> Result<(), Failure> {
        self.perform(Task::Release).map(drop)
    }

    /// How much a server that never reads accepts.
    #[track_caller]
    pub fn fill(&self, address: SocketAddr, limit: u64) -> Result<u64, Failure> {
        match self.perform(Task::Fill { address, limit })? {
            Answer::Filled(bytes) => Ok(bytes),
            other => panic!("{other:?}"),
        }
    }

    /// Where the pod's IPv4 address and a port meet.
    #[must_use]
    pub const fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4(), port)
    }

    /// The same for IPv6.
    #[must_use]
    pub const fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6(), port)
    }
}

/// An IPv4 address as IPv6 sockets write it.
#[must_use]
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// A server in a pod. It runs until the pod ends or it is stopped.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    pod: &'a Pod,
    number: u64,
    address: SocketAddr,
}

impl Server<'_> {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen.
    #[must_use]
    #[track_caller]
    pub fn seen(&self) -> Seen {
        match self.pod.perform(Task::Seen {
            server: self.number,
        }) {
            Ok(Answer::Seen(seen)) => seen,
            other => panic!("{other:?}"),
        }
    }

    /// Closes its listener and connections.
    #[track_caller]
    pub fn stop(self) {
        let task = Task::StopServer {
            server: self.number,
        };
        self.pod.perform(task).expect("the server runs");
    }
}

/// A connection that a pod keeps.
#[derive(Debug)]
pub struct Conn<'a> {
    pod: &'a Pod,
    connected: Connected,
}

impl Conn<'_> {
    /// What `getpeername` says.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.connected.peer
    }

    /// What `getsockname` says.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.connected.local
    }

    /// Sends text.
    #[track_caller]
    pub fn send(&self, text: &str) -> Result<(), Failure> {
        let task = Task::Send {
            conn: self.connected.conn,
            text: text.to_owned(),
        };
        self.pod.perform(task).map(drop)
    }

    /// Receives so many bytes, or fewer at the end of the stream.
    #[track_caller]
    pub fn receive(&self, length: usize) -> Result<String, Failure> {
        let conn = self.connected.conn;
        match self.pod.perform(Task::Receive { conn, length })? {
            Answer::Received(text) => Ok(text),
            other => panic!("{other:?}"),
        }
    }

    /// Sends text and wants it back.
    #[track_caller]
    pub fn echo(&self, text: &str) -> Result<(), Failure> {
        self.send(text)?;
        let back = self.receive(text.len())?;
        assert_eq!(back, text, "other bytes came back");
        Ok(())
    }

    /// Closes the sending half.
    #[track_caller]
    pub fn finish_sending(&self) -> Result<(), Failure> {
        let conn = self.connected.conn;
        self.pod.perform(Task::FinishSending { conn }).map(drop)
    }

    /// Closes the connection.
    #[track_caller]
    pub fn close(self) {
        let conn = self.connected.conn;
        self.pod
            .perform(Task::Close { conn })
            .expect("the connection is open");
    }
}

/// A task under way.
#[derive(Debug)]
pub struct Running<'a> {
    pod: &'a Pod,
    receiver: Receiver<Result<Answer, Failure>>,
}

impl Running<'_> {
    /// Waits for the report.
    #[must_use]
    #[track_caller]
    pub fn wait(self) -> Report {
        match self.receiver.recv_timeout(DEADLINE) {
            Ok(Ok(Answer::Report(report))) => report,
            other => panic!("no report from pod {}: {other:?}", self.pod.name()),
        }
    }

    /// Ends every load of the pod, and waits for the report.
    #[must_use]
    #[track_caller]
    pub fn stop(self) -> Report {
        self.pod.perform(Task::StopLoads).expect("the pod answers");
        self.wait()
    }
}

#[track_caller]
fn call_of(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> HttpCall {
    let (address, host, path) = parse_url(url);
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    HttpCall {
        address,
        host,
        method: method.to_owned(),
        path,
        headers: headers.collect(),
        body: body.to_owned(),
        http2: false,
    }
}

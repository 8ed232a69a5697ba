//! What runs inside a pod: reads commands, does them side by side, answers. Ends when its input does.

use std::collections::HashMap;
use std::io::{self, BufRead as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;

use crate::client::{self, Connection};
use crate::datagram;
use crate::protocol::{Answer, Command, Failure, Reply, Task};
use crate::resolver;
use crate::server::Server;
use crate::{hold, load, stream};

/// Serves commands until the end of the input.
pub fn run() -> io::Result<()> {
    raise_descriptor_limit();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let helper = Arc::new(Helper::default());
    for line in io::stdin().lock().lines() {
        let command: Command = serde_json::from_str(&line?)?;
        let helper = Arc::clone(&helper);
        drop(runtime.spawn(async move {
            let result = helper.perform(command.task).await;
            let id = command.id;
            Reply { id, result }.print();
        }));
    }
    // Nobody listens any more: what is under way does not matter.
    runtime.shutdown_background();
    Ok(())
}

impl Reply {
    fn print(&self) {
        let mut line = serde_json::to_vec(self).unwrap();
        line.push(b'\n');
        // Where nobody reads any more the input ends as well, and with it this process.
        drop(io::stdout().lock().write_all(&line));
    }
}

#[derive(Default)]
struct Helper {
    next: AtomicU64,
    servers: Mutex<HashMap<u64, Server>>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    datagrams: Mutex<HashMap<u64, Arc<UdpSocket>>>,
    loads: Mutex<Arc<AtomicBool>>,
    held: Mutex<Vec<TcpStream>>,
}

impl Helper {
    async fn perform(&self, task: Task) -> Result<Answer, Failure> {
        match task {
            Task::Serve { .. } | Task::Seen { .. } | Task::StopServer { .. } => {
                self.serve(task).await
            }
            Task::Connect { .. }
            | Task::Send { .. }
            | Task::Receive { .. }
            | Task::FinishSending { .. }
            | Task::Close { .. } => self.converse(task).await,
            Task::OpenDatagrams { .. }
            | Task::SendDatagram { .. }
            | Task::ReceiveDatagram { .. } => self.exchange(task).await,
            Task::Ask(question) => resolver::ask(question).await.map(Answer::Named),
            Task::Http(call) => client::call(call).await.map(Answer::Http),
            Task::Load(load) => {
                let stop = Arc::clone(&self.loads.lock().unwrap());
                Ok(Answer::Report(load::run(load, stop).await))
            }
            Task::StopLoads => {
                let mut stop = self.loads.lock().unwrap();
                stop.store(true, Ordering::Relaxed);
                *stop = Arc::default();
                Ok(Answer::Done)
            }
            Task::Hold {
                address,
                connections,
                is_http,
            } => {
                let held = hold::open(address, connections, is_http).await?;
                self.held.lock().unwrap().extend(held);
                Ok(Answer::Done)
            }
            Task::Release => {
                self.held.lock().unwrap().clear();
                Ok(Answer::Done)
            }
            task => spawn_blocking(|| stream::perform(task)).await.unwrap(),
        }
    }

    async fn serve(&self, task: Task) -> Result<Answer, Failure> {
        match task {
            Task::Serve { kind, address } => {
                let server = Server::start(kind, address)?;
                let address = server.address();
                let number = self.number();
                self.servers.lock().unwrap().insert(number, server);
                let server = number;
                Ok(Answer::Serving { server, address })
            }
            Task::Seen { server } => {
                let servers = self.servers.lock().unwrap();
                let server = servers.get(&server).ok_or_else(|| unknown("server"))?;
                Ok(Answer::Seen(server.seen()))
            }
            Task::StopServer { server } => {
                let server = self.servers.lock().unwrap().remove(&server);
                server.ok_or_else(|| unknown("server"))?.stop().await;
                Ok(Answer::Done)
            }
            _ => Err(unknown("task")),
        }
    }

    async fn converse(&self, task: Task) -> Result<Answer, Failure> {
        match task {
            Task::Connect {
                address,
                bind,
                multipath,
            } => {
                let conn = self.number();
                let stream = if multipath {
                    client::dial_multipath(address).await?
                } else {
                    client::dial(address, bind).await?
                };
                let (connection, connected) = Connection::of(conn, stream)?;
                let connection = Arc::new(connection);
                self.connections.lock().unwrap().insert(conn, connection);
                Ok(Answer::Connected(connected))
            }
            Task::Send { conn, text } => self.connection(conn)?.send(&text).await,
            Task::Receive { conn, length } => self.connection(conn)?.receive(length).await,
            Task::FinishSending { conn } => self.connection(conn)?.finish_sending().await,
            Task::Close { conn } => {
                let closed = self.connections.lock().unwrap().remove(&conn);
                closed
                    .map(|_| Answer::Done)
                    .ok_or_else(|| unknown("connection"))
            }
            _ => Err(unknown("task")),
        }
    }

    async fn exchange(&self, task: Task) -> Result<Answer, Failure> {
        match task {
            Task::OpenDatagrams { bind, connect } => {
                let number = self.number();
                let (socket, connected) = datagram::open(number, bind, connect).await?;
                let socket = Arc::new(socket);
                self.datagrams.lock().unwrap().insert(number, socket);
                Ok(Answer::Connected(connected))
            }
            Task::SendDatagram { socket, to, text } => {
                datagram::send(&*self.datagram_socket(socket)?, to, &text).await
            }
            Task::ReceiveDatagram { socket, millis } => {
                datagram::receive(&*self.datagram_socket(socket)?, millis).await
            }
            _ => Err(unknown("task")),
        }
    }

    fn datagram_socket(&self, number: u64) -> Result<Arc<UdpSocket>, Failure> {
        let sockets = self.datagrams.lock().unwrap();
        let socket = sockets.get(&number).map(Arc::clone);
        socket.ok_or_else(|| unknown("socket"))
    }

    fn connection(&self, number: u64) -> Result<Arc<Connection>, Failure> {
        let connections = self.connections.lock().unwrap();
        let connection = connections.get(&number).map(Arc::clone);
        connection.ok_or_else(|| unknown("connection"))
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// As many connections as the machine lets this process have.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}

fn unknown(what: &str) -> Failure {
    io::Error::other(format!("unknown {what}")).into()
}

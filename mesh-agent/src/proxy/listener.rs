//! Accepts connections, and hands each to the worker with the least to do.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::worker::{Job, Worker};
use crate::net::netns::Netns;
use crate::net::socket;

/// First and longest pause after the kernel could not give a connection.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// A listener on its way to the worker that accepts for it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) netns: Arc<Netns>,
    pub(crate) stop: CancellationToken,
}

/// A connection on its way to the worker that serves it.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) netns: Arc<Netns>,
    pub(crate) peer: SocketAddr,
}

/// All workers, as each of them sees them.
#[derive(Debug, Default)]
pub(crate) struct Peers(Vec<(Arc<Worker>, mpsc::Sender<Job>)>);

impl Peers {
    pub(crate) const fn new(workers: Vec<(Arc<Worker>, mpsc::Sender<Job>)>) -> Self {
        Self(workers)
    }

    /// Gives a connection to the least loaded worker; it stays with `local` where no other has less to do.
    fn hand_over(&self, local: &Arc<Worker>, accepted: Accepted) {
        let least = self.0.iter().min_by_key(|(worker, _)| worker.load());
        if let Some((worker, jobs)) = least
            && worker.load() < local.load()
        {
            match jobs.try_send(Job::Connection(accepted)) {
                Ok(()) => return,
                // Its queue is full or it is going: better served here than not at all.
                Err(
                    mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job),
                ) => {
                    if let Job::Connection(accepted) = job {
                        local.serve(accepted);
                    }
                    return;
                }
            }
        }
        local.serve(accepted);
    }
}

impl Listener {
    /// Accepts until it is told to stop; then closes.
    pub(crate) async fn run(self, worker: Arc<Worker>, peers: Arc<Peers>) {
        // SAFETY: the listener owns its descriptor, shows the same one always, and closes it when it is dropped, which
        // is after `AsyncFd` has let go of it.
        let listener = match unsafe { AsyncFd::register(self.socket) } {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, netns = self.netns.cookie(), "cannot watch a listener");
                return;
            }
        };
        let mut pause = PAUSES.0;
        loop {
            let ready = tokio::select! {
                () = self.stop.cancelled() => break,
                ready = listener.readable() => ready,
            };
            let accepted = ready.and_then(|mut ready| {
                ready
                    .try_io(|listener| socket::accept(listener.get_ref()))
                    .unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into()))
            });
            match accepted {
                Ok((stream, peer)) => {
                    pause = PAUSES.0;
                    let netns = Arc::clone(&self.netns);
                    peers.hand_over(
                        &worker,
                        Accepted {
                            stream,
                            netns,
                            peer,
                        },
                    );
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    worker.metrics.refused("accept");
                    tracing::warn!(%error, netns = self.netns.cookie(), "cannot accept a connection");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
        // Who has been let in by the kernel already would be reset by the close.
        while let Ok((stream, peer)) = socket::accept(listener.get_ref()) {
            let netns = Arc::clone(&self.netns);
            peers.hand_over(
                &worker,
                Accepted {
                    stream,
                    netns,
                    peer,
                },
            );
        }
    }
}

/// Whether the error is of one connection, which has gone, and not of the listener.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, NotConnected, WouldBlock,
    };
    matches!(
        error.kind(),
        WouldBlock | Interrupted | ConnectionAborted | ConnectionReset | NotConnected
    )
}

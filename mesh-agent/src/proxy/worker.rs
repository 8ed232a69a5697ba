//! A thread of the data plane: one single-threaded runtime, its connections, its pool.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::Config;
use super::http::mirror::MAX_COPIES;
use super::limits::Usage;
use super::listener::{Accepted, Listener, Peers};
use super::metrics::{Gauge, Metrics, WorkerGauges};
use super::outbound;
use super::overload::Places;
use super::pool::Pool;
use super::view::Workload;
use super::view::cell::Views;
use crate::net::clock;
use crate::net::conn::ConnTable;
use crate::net::slice;
use crate::net::socket;
use crate::net::timers::Timers;
use crate::telemetry::Throttle;

/// How often a worker shows that it is alive.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two looks at the pool.
const SWEEP: u32 = 8;

/// A runtime for the thread of one worker.
pub(crate) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
}

/// What can be given to a worker.
#[derive(Debug)]
pub(crate) enum Job {
    /// Accept on it.
    Listener(Listener),
    /// Serve it.
    Connection(Accepted),
}

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) views: Arc<Views>,
    pub(crate) table: Arc<dyn ConnTable>,
    pub(crate) metrics: Metrics,
    /// What all workloads hold together.
    pub(crate) usage: Arc<Usage>,
    /// Take nothing new, finish what runs.
    pub(crate) draining: CancellationToken,
    /// End what still runs.
    pub(crate) closing: CancellationToken,
    /// Stands for callers that the registry does not know.
    pub(crate) stranger: Arc<Workload>,
}

/// One worker.
pub(crate) struct Worker {
    shared: Shared,
    /// Connections to endpoints.
    pub(crate) pool: Pool,
    /// Room for copies of requests.
    pub(crate) mirrors: Arc<Semaphore>,
    /// Who is served, and who waits.
    pub(crate) places: Arc<Places>,
    /// Keeps a flood of refusals out of the log.
    pub(crate) refusals: Throttle,
    /// For limits that are seldom reached.
    pub(crate) timers: Arc<Timers>,
    tasks: TaskTracker,
    connections: AtomicUsize,
    gauge: Gauge,
    gauges: WorkerGauges,
    heartbeat_ns: AtomicU64,
}

impl std::ops::Deref for Worker {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("connections", &self.load())
            .finish_non_exhaustive()
    }
}

impl Worker {
    pub(crate) fn new(shared: Shared, number: usize) -> Self {
        Self {
            gauge: shared.metrics.worker(number),
            gauges: shared.metrics.shaping.worker(number),
            places: Arc::new(Places::new(shared.config.bounds())),
            shared,
            pool: Pool::default(),
            mirrors: Arc::new(Semaphore::new(MAX_COPIES)),
            refusals: Throttle::default(),
            timers: Arc::default(),
            tasks: TaskTracker::new(),
            connections: AtomicUsize::new(0),
            heartbeat_ns: AtomicU64::new(clock::monotonic_ns()),
        }
    }

    /// Connections of clients that it serves.
    pub(crate) fn load(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// When it last showed that it is alive.
    pub(crate) fn heartbeat_ns(&self) -> u64 {
        self.heartbeat_ns.load(Ordering::Relaxed)
    }

    /// Runs a task of this worker. Called on its thread; ends at the latest with its runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tasks.spawn(task));
    }

    /// Serves a connection on this worker. Called on its thread.
    pub(crate) fn serve(self: &Arc<Self>, accepted: Accepted) {
        let Accepted {
            stream,
            netns,
            peer,
        } = accepted;
        let held = Held::new(Arc::clone(self));
        let prepared = socket::prepare_accepted(&stream).and_then(|()| TcpStream::from_std(stream));
        match prepared {
            Ok(stream) => {
                let serving = outbound::serve(Arc::clone(self), stream, netns, peer);
                self.spawn(async move {
                    serving.await;
                    drop(held);
                });
            }
            // Gone again, most of the time.
            Err(error) => tracing::debug!(%error, %peer, "connection lost"),
        }
    }

    /// The life of the worker's thread.
    pub(crate) fn run(
        self: &Arc<Self>,
        runtime: Runtime,
        jobs: mpsc::Receiver<Job>,
        peers: &Arc<Peers>,
        stop: &CancellationToken,
    ) {
        // Requests do not wait for a change or a lookup that was on the processor first.
        if let Err(error) = slice::shorten() {
            tracing::debug!(%error, "the kernel does not let the proxy ask for shorter turns");
        }
        runtime.block_on(self.work(jobs, peers, stop));
        // Ends what hangs on this runtime: connections that were not finished in time.
        drop(runtime);
    }

    async fn work(
        self: &Arc<Self>,
        mut jobs: mpsc::Receiver<Job>,
        peers: &Arc<Peers>,
        stop: &CancellationToken,
    ) {
        let worker = Arc::clone(self);
        self.spawn(async move { worker.places.watch(&worker.gauges).await });
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {
                    self.heartbeat_ns.store(clock::monotonic_ns(), Ordering::Relaxed);
                    self.pool.make_room(self);
                    count = count.wrapping_add(1);
                    if count.is_multiple_of(SWEEP) {
                        self.pool.sweep(self, &self.views.load());
                    }
                }
                Some(job) = jobs.recv() => match job {
                    Job::Connection(accepted) => self.serve(accepted),
                    Job::Listener(listener) => {
                        self.spawn(listener.run(Arc::clone(self), Arc::clone(peers)));
                    }
                },
            }
        }
    }
}

/// A connection that a worker serves.
struct Held(Arc<Worker>);

impl Held {
    fn new(worker: Arc<Worker>) -> Self {
        worker.connections.fetch_add(1, Ordering::Relaxed);
        worker.gauge.inc();
        Self(worker)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.dec();
    }
}

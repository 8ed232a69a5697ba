//! Takes connections out of the pool, or makes them.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures_util::future::{Either, select};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

use super::open::{open_http1, open_http2, see_through};
use super::{Dialling, Key, Lease};
use crate::net::clock;
use crate::proxy::caller::Caller;
use crate::proxy::connect::Dial;
use crate::proxy::error::Error;
use crate::proxy::passage;
use crate::proxy::policy::Policy;
use crate::proxy::policy::breaker::{Limit, Place, Room, Slot};
use crate::proxy::view::{Endpoint, ServicePort};
use crate::proxy::worker::Worker;

/// A connection that needs not be made.
pub(crate) fn at_hand(
    worker: &Worker,
    caller: &Caller,
    endpoint: &Endpoint,
    is_http2: bool,
) -> Option<Lease> {
    let key = Key::new(caller, endpoint);
    let lease = if is_http2 {
        worker.pool.take_shared(&key)
    } else {
        worker.pool.take_idle(worker, &key)
    };
    if lease.is_some() {
        worker.metrics.pool_reused.inc();
    }
    lease
}

/// Whether a place for a connection is waited for: then the endpoint has not been asked, and is not to blame.
#[derive(Debug, Default)]
pub(crate) struct Queued(AtomicBool);

impl Queued {
    /// Whether it is so now, or was when the waiting was given up.
    pub(crate) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a connection is wanted for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The worker that makes it.
    pub(crate) worker: &'a Arc<Worker>,
    /// For whom.
    pub(crate) caller: &'a Caller,
    /// What bounds those who wait, with the policy of the port; absent for copies, which have a bound of their own.
    pub(crate) policy: Option<&'a Policy>,
    /// Whose endpoint it is.
    pub(crate) port: &'a ServicePort,
    /// To whom.
    pub(crate) endpoint: &'a Arc<Endpoint>,
    /// Says whether a place is waited for.
    pub(crate) queued: &'a Queued,
}

impl Wanted<'_> {
    fn at_hand(&self, is_http2: bool) -> Option<Lease> {
        at_hand(self.worker, self.caller, self.endpoint, is_http2)
    }

    /// One more who waits for what others hold or make, if there may be. Whoever dials at once waits for nobody.
    fn queue_up(&self, slots: &mut Option<Vec<Slot>>) -> Result<(), Error> {
        if let (Some(policy), None) = (self.policy, &slots) {
            *slots = Some(passage::take(
                self.worker,
                policy,
                self.port,
                Limit::Pending,
            )?);
        }
        Ok(())
    }

    /// The place of a connection that is to be made, where connections are limited; waits for one for as long as a
    /// connection may take.
    async fn place(&self) -> Result<Option<Place>, Error> {
        let Some(room) = self.port.policy.room() else {
            return Ok(None);
        };
        if let Some(place) = room.take() {
            return Ok(Some(place));
        }
        let mut slots = None;
        self.queue_up(&mut slots)?;
        let deadline = Instant::now() + self.worker.config.timeouts.connect;
        match self.wait(room, pending::<Infallible>(), deadline).await {
            Some(Either::Left(place)) => Ok(Some(place)),
            None => Err(crowded(self.worker)),
        }
    }

    /// Waits for a place, or for `other`, until `deadline`; nothing if neither has come by then.
    async fn wait<T>(
        &self,
        room: &Arc<Room>,
        other: impl Future<Output = T>,
        deadline: Instant,
    ) -> Option<Either<Place, T>> {
        let waiting = async {
            let mut waiting = pin!(room.wait());
            // Counted as waiting from the first poll, so that what is idle goes.
            if let Poll::Ready(place) = poll_once(waiting.as_mut()).await {
                return Either::Left(place);
            }
            self.worker.pool.make_room(self.worker);
            match select(waiting, pin!(other)).await {
                Either::Left((place, _)) => Either::Left(place),
                Either::Right((other, _)) => Either::Right(other),
            }
        };
        self.queued.0.store(true, Ordering::Relaxed);
        let result = timeout_at(deadline, waiting).await.ok();
        self.queued.0.store(false, Ordering::Relaxed);
        result
    }
}

/// There was no place.
pub(crate) fn crowded(worker: &Worker) -> Error {
    let what = Limit::Connections;
    worker.metrics.overflow(what);
    Error::Overflow(what.as_str())
}

/// Polls a future once, whatever comes of it.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// A connection on which one HTTP/1.1 request can be sent.
pub(crate) async fn http1(wanted: Wanted<'_>) -> Result<Lease, Error> {
    if let Some(lease) = wanted.at_hand(false) {
        return Ok(lease);
    }
    let place = wanted.place().await?.map(Arc::new);
    let Wanted {
        worker,
        caller,
        port,
        endpoint,
        ..
    } = wanted;
    let key = Key::new(caller, endpoint);
    let dialling = worker.pool.dialling(key);
    let dial = Dial::new(caller, port, endpoint);
    let (mut tell, told) = oneshot::channel();
    let maker = Arc::clone(worker);
    worker.spawn(async move {
        let opening = open_http1(&maker, key, dial, place.clone());
        let most = maker.config.limits.idle_connections;
        let made = see_through(opening, &mut tell, place.as_deref(), || {
            dialling.outlive(most)
        });
        if let Some(result) = made.await
            && let Err(Ok(lease)) = tell.send(result)
        {
            maker.pool.give_back(&maker, lease);
        }
    });
    told.await.unwrap_or(Err(Error::Draining))
}

/// A stream on an HTTP/2 connection, within what the peer allows. One dials with a place in hand, and the others wait for
/// what comes of it; for a place each waits on its own, until somebody has dialled or a stream is free.
pub(crate) async fn http2(wanted: Wanted<'_>) -> Result<Lease, Error> {
    let Wanted {
        worker, endpoint, ..
    } = wanted;
    let dialling = worker.pool.dialling(Key::new(wanted.caller, endpoint));
    let room = wanted.port.policy.room();
    let asked_ns = clock::monotonic_ns();
    let deadline = Instant::now() + worker.config.timeouts.connect;
    let (mut place, mut slots) = (None, None);
    loop {
        if let Some(lease) = wanted.at_hand(true) {
            return Ok(lease);
        }
        let turn = if let Ok(turn) = Arc::clone(&dialling.turn).try_acquire_owned() {
            turn
        } else {
            wanted.queue_up(&mut slots)?;
            // Never closed; whoever waits does so for one connection to be made, which has a deadline.
            let turn = Arc::clone(&dialling.turn).acquire_owned().await;
            let turn = turn.ok().ok_or(Error::Draining)?;
            if let Some(lease) = wanted.at_hand(true) {
                return Ok(lease);
            }
            turn
        };
        if dialling.timed_out_ns.load(Ordering::Relaxed) >= asked_ns {
            // It has waited as long as the one before it, and would wait as long again.
            return Err(Error::ConnectTimeout(endpoint.address));
        }
        place = place.or_else(|| room?.take());
        let (Some(room), None) = (room, &place) else {
            return make_http2(wanted, dialling, turn, place.map(Arc::new)).await;
        };
        drop(turn);
        wanted.queue_up(&mut slots)?;
        let opened = dialling.opened.notified();
        place = match wanted.wait(room, opened, deadline).await {
            Some(Either::Left(place)) => Some(place),
            Some(Either::Right(())) => None,
            // Whoever was told of a stream may have found it taken.
            None => return wanted.at_hand(true).ok_or_else(|| crowded(worker)),
        };
    }
}

/// A stream on a connection that is made, in its turn.
async fn make_http2(
    wanted: Wanted<'_>,
    dialling: Arc<Dialling>,
    turn: OwnedSemaphorePermit,
    place: Option<Arc<Place>>,
) -> Result<Lease, Error> {
    let Wanted {
        worker,
        caller,
        port,
        endpoint,
        ..
    } = wanted;
    let key = Key::new(caller, endpoint);
    let dial = Dial::new(caller, port, endpoint);
    let (mut tell, told) = oneshot::channel();
    let maker = Arc::clone(worker);
    worker.spawn(async move {
        let freed = place.is_some().then(|| Arc::clone(&dialling.opened));
        let opening = open_http2(&maker, key, dial, place.clone(), freed);
        // There is one at a time.
        let made = see_through(opening, &mut tell, place.as_deref(), || Some(()));
        if let Some(result) = made.await {
            dialling.ended(&result);
            drop(tell.send(result));
        }
        drop(turn);
    });
    told.await.unwrap_or(Err(Error::Draining))
}

impl Dialling {
    /// Tells those who wait what came of it.
    fn ended(&self, result: &Result<Lease, Error>) {
        match result {
            Ok(_) => self.opened.notify_waiters(),
            Err(Error::ConnectTimeout(_)) => {
                let now_ns = clock::monotonic_ns();
                self.timed_out_ns.store(now_ns, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }
}

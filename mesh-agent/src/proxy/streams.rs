//! Where an opaque connection goes: to the service itself, or where its TCP and TLS routes send it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

use super::caller::Caller;
use super::detect::client_hello::{self, Hello};
use super::error::Error;
use super::view::ServicePort;
use super::worker::Worker;
use crate::net::stream::Stream;
use crate::traffic::route::stream::StreamRoute;

/// Where a connection goes.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    /// The service port that was dialled.
    asked: Arc<ServicePort>,
    /// The one whose endpoints take the connection.
    pub(crate) port: Arc<ServicePort>,
    /// The route that has sent it there.
    pub(crate) route: Option<Arc<StreamRoute>>,
}

impl Routed {
    /// The service port that was dialled.
    pub(crate) const fn asked(&self) -> &Arc<ServicePort> {
        &self.asked
    }

    /// The ports whose policies hold for the connection.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        let other = Some(&self.asked).filter(|asked| !Arc::ptr_eq(asked, &self.port));
        std::iter::once(&self.port).chain(other)
    }
}

/// What is known before the client has said a word.
#[derive(Debug)]
pub(crate) enum Way {
    /// Every connection goes here.
    To(Routed),
    /// The name that the client asks for decides.
    ByName,
    /// The route sends this share nowhere.
    Nowhere(Error),
}

impl Way {
    /// The way of a connection to `port`.
    pub(crate) fn of(worker: &Worker, caller: &Caller, port: &Arc<ServicePort>) -> Self {
        match port.stream_routes(&caller.workload.key.namespace) {
            None => Self::To(Routed {
                asked: Arc::clone(port),
                port: Arc::clone(port),
                route: None,
            }),
            Some(streams) if streams.needs_name() => Self::ByName,
            Some(streams) => match pick(worker, port, streams.choose(None)) {
                Ok(routed) => Self::To(routed),
                Err(error) => Self::Nowhere(error),
            },
        }
    }

    /// Where the connection may be dialled before the client has spoken.
    pub(crate) const fn ahead(&self) -> Option<&Arc<ServicePort>> {
        match self {
            Self::To(routed) => Some(&routed.port),
            Self::ByName | Self::Nowhere(_) => None,
        }
    }

    /// Where the connection goes. `first` has been read already; what comes back has been read since.
    pub(crate) async fn follow(
        self,
        worker: &Worker,
        (caller, port): (&Caller, &Arc<ServicePort>),
        stream: &mut Stream,
        first: Bytes,
    ) -> (Bytes, Result<Routed, Error>) {
        match self {
            Self::To(routed) => (first, Ok(routed)),
            Self::Nowhere(error) => (first, Err(error)),
            Self::ByName => {
                let mut first = BytesMut::from(first);
                let name = name(worker, stream, &mut first).await;
                let streams = port.stream_routes(&caller.workload.key.namespace);
                let choose = |name: Option<String>| {
                    let route = streams.and_then(|streams| streams.choose(name.as_deref()));
                    pick(worker, port, route)
                };
                (first.freeze(), name.and_then(choose))
            }
        }
    }
}

fn pick(
    worker: &Worker,
    asked: &Arc<ServicePort>,
    route: Option<&Arc<StreamRoute>>,
) -> Result<Routed, Error> {
    let route = route.ok_or(Error::NoRoute)?;
    let target = route.backends.pick(rand::random).and_then(Option::as_ref);
    let view = worker.views.load();
    let port = target.and_then(|target| view.backend(target));
    Ok(Routed {
        asked: Arc::clone(asked),
        port: Arc::clone(port.ok_or(Error::BadBackend)?),
        route: Some(Arc::clone(route)),
    })
}

/// Reads on until the name that the client asks for is known.
async fn name(
    worker: &Worker,
    stream: &mut Stream,
    first: &mut BytesMut,
) -> Result<Option<String>, Error> {
    let timeouts = &worker.config.timeouts;
    let patience = if first.is_empty() {
        timeouts.first_byte
    } else {
        timeouts.header
    };
    let mut deadline = Instant::now() + patience;
    loop {
        match client_hello::server_name(first) {
            Hello::Name(name) => return Ok(name),
            Hello::Foreign => return Ok(None),
            Hello::Unsure => {}
        }
        let was_silent = first.is_empty();
        let read = tokio::select! {
            biased;
            read = timeout_at(deadline, stream.read_buf(first)) => read.ok().ok_or(Error::Idle)?,
            // Nothing was asked yet.
            () = worker.draining.cancelled(), if was_silent => return Err(Error::Draining),
        };
        if read.map_err(Error::Downstream)? == 0 {
            return Ok(None);
        }
        if was_silent {
            deadline = Instant::now() + timeouts.header;
        }
    }
}

//! What follows a switch of protocols (WebSocket) or a CONNECT: bytes both ways.

use http::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio_util::either::Either;

use super::exchange::Exchange;
use super::received::Received;
use crate::net::copy::{self, Counts, End as Ended, Watch};
use crate::proxy::error::Error;
use crate::proxy::http2::Tunnel;

/// One end of a tunnel.
pub(crate) enum End {
    /// A connection that hyper lets go of.
    Upgrade(OnUpgrade),
    /// A stream of a connection.
    Stream(Box<Tunnel>),
    /// A stream of a connection, once the client has its answer.
    Promised(oneshot::Receiver<Tunnel>),
}

impl End {
    /// What an answer that switches protocols, or grants a CONNECT, leads to.
    pub(crate) fn of(mut response: Response<Received>) -> (Response<()>, Self) {
        let upgrade = hyper::upgrade::on(&mut response);
        let (head, body) = response.into_parts();
        let end = match body {
            Received::Tunnel(tunnel) => Self::Stream(tunnel),
            Received::Hyper(_) | Received::Stream(_) | Received::Nothing => Self::Upgrade(upgrade),
        };
        (Response::from_parts(head, ()), end)
    }

    /// Nothing, where it has ended before it began.
    async fn open(self) -> Option<Either<TokioIo<Upgraded>, Tunnel>> {
        match self {
            Self::Upgrade(upgrade) => Some(Either::Left(TokioIo::new(upgrade.await.ok()?))),
            Self::Stream(tunnel) => Some(Either::Right(*tunnel)),
            Self::Promised(tunnel) => Some(Either::Right(tunnel.await.ok()?)),
        }
    }
}

/// Joins the two connections that were taken out of HTTP, until they end.
pub(crate) async fn tunnel(mut exchange: Box<Exchange>, client: End, endpoint: End) {
    let connection = std::sync::Arc::clone(&exchange.connection);
    if !connection.is_http2 {
        connection.pulse.tunnel();
    }
    let joined = tokio::join!(client.open(), endpoint.open());
    let (mut client, mut endpoint) = match joined {
        (Some(client), Some(endpoint)) => (client, endpoint),
        (None, _) => return,
        (_, None) => return exchange.cut_off(),
    };
    let counts = Counts::default();
    let idle = connection.worker.config.timeouts.idle;
    let watch = Watch {
        idle,
        every: idle,
        report: || (),
    };
    let permit = &connection.caller.permit;
    let end = tokio::select! {
        end = copy::both_ways(&mut client, &mut endpoint, permit, &counts, watch) => Some(end),
        () = connection.worker.closing.cancelled() => None,
    };
    let (received, sent) = counts.load();
    exchange.fate.get_or_insert_default().add(received);
    exchange.add_response_bytes(sent);
    match end {
        Some(Ended::Finished) => exchange.complete(),
        Some(Ended::Idle) => exchange.failed(&Error::Idle),
        Some(Ended::Left(error)) => exchange.failed(&Error::Downstream(error)),
        Some(Ended::Right(error)) => exchange.failed(&Error::UpstreamIo(error)),
        None => exchange.failed(&Error::Draining),
    }
}

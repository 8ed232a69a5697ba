//! What follows a switch of protocols (WebSocket) or a CONNECT: bytes both ways.

use http::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_util::either::Either;

use super::exchange::Exchange;
use super::received::Received;
use crate::net::copy::{self, Counts, End as Ended, Watch};
use crate::proxy::error::Error;
use crate::proxy::http2::Tunnel;

/// The endpoint's end of a tunnel.
pub(crate) enum End {
    /// A connection that hyper lets go of.
    Upgrade(OnUpgrade),
    /// A stream of a connection.
    Stream(Box<Tunnel>),
}

impl End {
    /// What an answer that switches protocols, or grants a CONNECT, leads to.
    pub(crate) fn of(mut response: Response<Received>) -> (Response<()>, Self) {
        let upgrade = hyper::upgrade::on(&mut response);
        let (head, body) = response.into_parts();
        let end = match body {
            Received::Tunnel(tunnel) => Self::Stream(tunnel),
            Received::Hyper(_) | Received::Stream(_) => Self::Upgrade(upgrade),
        };
        (Response::from_parts(head, ()), end)
    }

    async fn open(self) -> Result<Either<TokioIo<Upgraded>, Tunnel>, hyper::Error> {
        match self {
            Self::Upgrade(upgrade) => Ok(Either::Left(TokioIo::new(upgrade.await?))),
            Self::Stream(tunnel) => Ok(Either::Right(*tunnel)),
        }
    }
}

/// Joins the two connections that were taken out of HTTP, until they end.
pub(crate) async fn tunnel(mut exchange: Box<Exchange>, client: OnUpgrade, endpoint: End) {
    let connection = std::sync::Arc::clone(&exchange.connection);
    connection.pulse.tunnel();
    let joined = tokio::join!(client, endpoint.open());
    let (client, mut endpoint) = match joined {
        (Ok(client), Ok(endpoint)) => (client, endpoint),
        (Err(_), _) => return,
        (_, Err(_)) => return exchange.cut_off(),
    };
    let counts = Counts::default();
    let mut client = TokioIo::new(client);
    let idle = connection.worker.config.timeouts.idle;
    let watch = Watch {
        idle,
        every: idle,
        report: || (),
    };
    let permit = &connection.caller.permit;
    let end = tokio::select! {
        end = copy::both_ways(&mut client, &mut endpoint, permit, &counts, watch) => end,
        () = connection.worker.closing.cancelled() => Ended::Idle,
    };
    let (received, sent) = counts.load();
    exchange.fate.get_or_insert_default().add(received);
    exchange.add_response_bytes(sent);
    match end {
        Ended::Finished => exchange.complete(),
        Ended::Idle => exchange.failed(&Error::Idle),
        Ended::Left(error) => exchange.failed(&Error::Downstream(error)),
        Ended::Right(error) => exchange.failed(&Error::UpstreamIo(error)),
    }
}

//! What follows a switch of protocols (WebSocket) or a CONNECT: bytes both ways.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::exchange::Exchange;
use crate::net::copy::{self, Counts, End, Watch};
use crate::proxy::error::Error;

/// Joins the two connections that were taken out of HTTP, until they end.
pub(crate) async fn tunnel(mut exchange: Box<Exchange>, client: OnUpgrade, endpoint: OnUpgrade) {
    let connection = std::sync::Arc::clone(&exchange.connection);
    connection.pulse.tunnel();
    let joined = tokio::join!(client, endpoint);
    let (client, endpoint) = match joined {
        (Ok(client), Ok(endpoint)) => (client, endpoint),
        (Err(_), _) => return,
        (_, Err(_)) => return exchange.cut_off(),
    };
    let counts = Counts::default();
    let mut client = TokioIo::new(client);
    let mut endpoint = TokioIo::new(endpoint);
    let idle = connection.worker.config.timeouts.idle;
    let watch = Watch {
        idle,
        every: idle,
        report: || (),
    };
    let permit = &connection.caller.permit;
    let end = tokio::select! {
        end = copy::both_ways(&mut client, &mut endpoint, permit, &counts, watch) => end,
        () = connection.worker.closing.cancelled() => End::Idle,
    };
    let (received, sent) = counts.load();
    exchange.fate.get_or_insert_default().add(received);
    exchange.add_response_bytes(sent);
    match end {
        End::Finished => exchange.complete(),
        End::Idle => exchange.failed(&Error::Idle),
        End::Left(error) => exchange.failed(&Error::Downstream(error)),
        End::Right(error) => exchange.failed(&Error::UpstreamIo(error)),
    }
}

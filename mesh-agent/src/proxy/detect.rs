//! What a connection speaks: declared, else learned for that port, else found in its first bytes.
//!
//! Nobody waits for a silent side: while the client is silent the endpoint is dialled, and whoever speaks first
//! decides. What servers of HTTP say to a silent client decides nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::caller::Caller;
use super::error::Error;
use super::tcp::{self, Dialled};
use super::view::{Learned, ServicePort};
use super::worker::Worker;
use crate::net::stream::Stream;
use crate::state::service::Protocol;

pub(crate) mod client_hello;
pub(crate) mod sniff;

use sniff::Sniff;

/// What was found. The bytes were read on the way, and belong in front.
#[derive(Debug)]
pub(crate) enum Detected {
    /// HTTP/1.
    Http1(Bytes),
    /// HTTP/2 with prior knowledge.
    Http2(Bytes),
    /// Anything else; the endpoint's side may be connected already.
    Opaque(Bytes, Option<Dialled>),
    /// The client has gone without a word.
    Nothing,
}

/// Finds the protocol of a connection to `port`. While the client is silent `ahead` is dialled, if the way of the
/// connection is known already.
pub(crate) async fn detect(
    worker: &Worker,
    caller: &Caller,
    port: &ServicePort,
    ahead: Option<&Arc<ServicePort>>,
    stream: &mut Stream,
) -> Result<Detected, Error> {
    match port.protocol {
        // What is declared is what the endpoints speak; a client may speak the other version.
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            worker.metrics.detected("declared");
            return version(worker, stream).await;
        }
        Protocol::Tcp | Protocol::Tls | Protocol::Udp => {
            worker.metrics.detected("declared");
            return Ok(Detected::Opaque(Bytes::new(), None));
        }
        Protocol::Auto if port.is_opaque_by_route(&caller.workload.key.namespace) => {
            worker.metrics.detected("declared");
            return Ok(Detected::Opaque(Bytes::new(), None));
        }
        Protocol::Auto => {}
    }
    if port.memory.learned(worker.config.timeouts.detected) == Learned::ServerFirst {
        worker.metrics.detected("learned");
        return Ok(Detected::Opaque(Bytes::new(), None));
    }
    let speaker = tokio::select! {
        biased;
        speaker = who_speaks(worker, caller, port, ahead, stream) => speaker?,
        // Nothing was asked yet.
        () = worker.draining.cancelled() => return Ok(Detected::Nothing),
    };
    let dialled = match speaker {
        Speaker::Client(dialled) => dialled,
        Speaker::Endpoint(dialled) => {
            worker.metrics.detected("server-first");
            return Ok(Detected::Opaque(Bytes::new(), Some(dialled)));
        }
    };
    let (first, sniffed) = read_first(stream, worker.config.timeouts.detect).await?;
    worker.metrics.detected(sniffed.as_str());
    Ok(match sniffed {
        Sniff::Http1 => {
            port.memory.learn(Learned::Http);
            Detected::Http1(first)
        }
        Sniff::Http2 => {
            port.memory.learn(Learned::Http);
            Detected::Http2(first)
        }
        Sniff::Unsure if first.is_empty() && dialled.is_none() => Detected::Nothing,
        Sniff::Opaque | Sniff::Unsure => Detected::Opaque(first, dialled),
    })
}

/// Waits for the first bytes of a client of HTTP, as long as it may be silent, and tells its version.
async fn version(worker: &Worker, stream: &mut Stream) -> Result<Detected, Error> {
    let timeouts = &worker.config.timeouts;
    let is_heard = tokio::select! {
        heard = timeout(timeouts.first_byte, stream.readable()) => {
            heard.ok().transpose().map_err(Error::Downstream)?.is_some()
        }
        // Nothing was asked yet.
        () = worker.draining.cancelled() => false,
    };
    if !is_heard {
        return Ok(Detected::Nothing);
    }
    Ok(match read_first(stream, timeouts.detect).await? {
        (first, _) if first.is_empty() => Detected::Nothing,
        (first, Sniff::Http2) => Detected::Http2(first),
        // What is no request is refused as one.
        (first, _) => Detected::Http1(first),
    })
}

/// Tells what the first bytes are, where no service is there to be asked: for an error in the client's language.
pub(crate) async fn detect_orphan(worker: &Worker, stream: &mut Stream) -> Detected {
    let patience = worker.config.timeouts.detect;
    match read_first(stream, patience).await {
        Ok((first, Sniff::Http1)) => Detected::Http1(first),
        Ok((first, Sniff::Http2)) => Detected::Http2(first),
        Ok((_, Sniff::Opaque | Sniff::Unsure)) | Err(_) => Detected::Nothing,
    }
}

enum Speaker {
    Client(Option<Dialled>),
    Endpoint(Dialled),
}

/// Waits for the first byte of either side. After a short while the endpoint is dialled, for it may be the one that
/// speaks first.
async fn who_speaks(
    worker: &Worker,
    caller: &Caller,
    port: &ServicePort,
    ahead: Option<&Arc<ServicePort>>,
    stream: &Stream,
) -> Result<Speaker, Error> {
    let timeouts = &worker.config.timeouts;
    let is_http = port.memory.learned(timeouts.detected) == Learned::Http;
    let head_start = if is_http {
        timeouts.detect
    } else {
        timeouts.detect_race
    };
    if let Ok(result) = timeout(head_start, stream.readable()).await {
        result.map_err(Error::Downstream)?;
        return Ok(Speaker::Client(None));
    }
    let Some(ahead) = ahead else {
        wait(stream, timeouts.idle).await?;
        return Ok(Speaker::Client(None));
    };
    let dialled = tokio::select! {
        biased;
        result = stream.readable() => {
            result.map_err(Error::Downstream)?;
            return Ok(Speaker::Client(None));
        }
        dialled = tcp::dial(worker, caller, &port.policy, ahead) => dialled,
    };
    let dialled = match dialled {
        Ok(dialled) => dialled,
        // A client that keeps a connection ready gets its answer when it asks.
        Err(_) if is_http => {
            wait(stream, timeouts.idle).await?;
            return Ok(Speaker::Client(None));
        }
        Err(error) => return Err(error),
    };
    let greeting = tokio::select! {
        biased;
        result = wait(stream, timeouts.idle) => {
            result?;
            return Ok(Speaker::Client(Some(dialled)));
        }
        greeting = greeting(&dialled.stream) => greeting,
    };
    match greeting {
        Ok(Greeting::Http) => {}
        // The endpoint is tired of waiting; the client may still ask.
        Ok(Greeting::Closed) | Err(_) if is_http => {}
        // An endpoint that only closes has not spoken: the copy passes that on.
        Ok(Greeting::Closed) => return Ok(Speaker::Endpoint(dialled)),
        Ok(Greeting::Other) => {
            if !is_http {
                port.memory.learn(Learned::ServerFirst);
            }
            return Ok(Speaker::Endpoint(dialled));
        }
        Err(error) => return Err(Error::UpstreamIo(error)),
    }
    drop(dialled);
    wait(stream, timeouts.idle).await?;
    Ok(Speaker::Client(None))
}

/// What an endpoint does before its client has spoken.
enum Greeting {
    /// It speaks HTTP, which says nothing of the client: it has announced its settings, or has lost its patience.
    Http,
    /// It speaks first, as servers of its protocol do.
    Other,
    /// It closes.
    Closed,
}

async fn greeting(endpoint: &Stream) -> io::Result<Greeting> {
    let mut first = [0; sniff::GREETING];
    let length = endpoint.peek(&mut first).await?;
    let first = first.get(..length).unwrap_or_default();
    Ok(match first {
        [] => Greeting::Closed,
        first if sniff::is_http_server(first) => Greeting::Http,
        _ => Greeting::Other,
    })
}

async fn wait(stream: &Stream, patience: Duration) -> Result<(), Error> {
    timeout(patience, stream.readable())
        .await
        .ok()
        .ok_or(Error::Idle)?
        .map_err(Error::Downstream)
}

/// Reads until the protocol is clear, the client has closed, or `patience` is over since the first byte.
async fn read_first(stream: &mut Stream, patience: Duration) -> Result<(Bytes, Sniff), Error> {
    let mut first = BytesMut::with_capacity(sniff::ENOUGH);
    let mut deadline = None;
    loop {
        let until = deadline.unwrap_or_else(|| Instant::now() + patience);
        let read: io::Result<usize> = match timeout_at(until, stream.read_buf(&mut first)).await {
            Ok(read) => read,
            Err(_) => return Ok((first.freeze(), Sniff::Unsure)),
        };
        if read.map_err(Error::Downstream)? == 0 {
            return Ok((first.freeze(), Sniff::Unsure));
        }
        deadline = Some(until);
        match sniff::sniff(&first) {
            Sniff::Unsure if first.len() < sniff::ENOUGH => {}
            sniffed => return Ok((first.freeze(), sniffed)),
        }
    }
}

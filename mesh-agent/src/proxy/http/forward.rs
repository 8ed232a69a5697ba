//! One request: sound? which service? may it? to whom? and the answer streamed back.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;

use super::Connection;
use super::admit;
use super::attempts::{self, Asked, Target};
use super::body::{Outgoing, Reply};
use super::exchange::Exchange;
use super::faults;
use super::filters;
use super::headers::{self, Additions, After, Wish};
use super::interim::Interim;
use super::mirror;
use super::received::Received;
use super::reply::{self, Form};
use super::routes::{self, Routed, Ruled, Way};
use super::upgrade::{self, End};
use crate::proxy::error::Error;
use crate::proxy::view::ServicePort;
use crate::state::service::Protocol;

/// Answers one request; `client` is where bytes come from should it become a tunnel. There is always an answer; that of the proxy itself says so.
pub(crate) fn forward(
    connection: Arc<Connection>,
    (parts, body): (Parts, Received),
    client: Option<End>,
) -> impl Future<Output = Response<Reply>> + Send {
    let form = Form {
        version: parts.version,
        is_head: parts.method == Method::HEAD,
    };
    // An async function keeps what it is given by value twice: a request is given to none.
    let mut coming = Some((parts, body));
    // Under way from now on, though its task may have to wait.
    let mut exchange = Exchange::new(connection);
    async move {
        let result = answer(&mut exchange, &mut coming, client).await;
        conclude(exchange, result, form)
    }
}

fn conclude(exchange: Box<Exchange>, result: Result<Answer, Error>, form: Form) -> Response<Reply> {
    match result {
        Ok(Answer::Streamed(response)) => {
            if form.version == Version::HTTP_10 && !form.is_head {
                exchange.connection.pulse.answer.ends_with_connection();
            }
            response.map(|body| Reply::Streamed {
                inner: exchange.guard_response(body),
                exchange,
            })
        }
        Ok(Answer::Switched {
            response,
            client,
            endpoint,
        }) => {
            let worker = Arc::clone(&exchange.connection.worker);
            worker.spawn(upgrade::tunnel(exchange, client, endpoint));
            response
        }
        Ok(Answer::Own(status, headers)) => reply::own(status, headers, exchange),
        Err(error) => reply::refuse(&error, exchange, form),
    }
}

/// A request until it is sent on.
type Coming = Option<(Parts, Received)>;

enum Answer {
    Streamed(Response<Received>),
    Switched {
        response: Response<Reply>,
        client: End,
        endpoint: End,
    },
    /// A rule of a route answers itself.
    Own(StatusCode, HeaderMap),
}

async fn answer(
    exchange: &mut Exchange,
    coming: &mut Coming,
    client: Option<End>,
) -> Result<Answer, Error> {
    const GONE: Error = Error::BadRequest("the request was taken");
    let connection = Arc::clone(&exchange.connection);
    let port = service_port(&connection).await;
    let (parts, _) = coming.as_mut().ok_or(GONE)?;
    let mut wish = judge(exchange, parts, port.as_ref())?;
    let port = port.ok_or(Error::NoService(connection.caller.original))?;
    let routed = match routes::choose(exchange, &port, parts, &wish, rand::random)? {
        Way::To(routed) => routed,
        Way::Answer(status, headers) => return Ok(Answer::Own(status, headers)),
    };
    exchange.port = Some(Arc::clone(&routed.port));
    let is_http2 = speaks_http2(&routed.port, &connection);
    if is_http2 {
        wish.forgo_upgrade()?;
    }
    exchange.limit_time(&routed.policy, &parts.headers);
    let fields = wish.fields(&parts.headers);
    faults::inject(exchange, &routed.policy, &routed.port, &fields).await?;
    admit::request(exchange, &routed.policy, &routed.port, fields).await?;
    let origin = match &routed.ruled {
        Some(ruled) => filters::origin(ruled, parts),
        None => None,
    };
    let coming = coming.take().ok_or(GONE)?;
    let request = prepare(exchange, coming, &mut wish, &routed, is_http2)?;
    exchange.is_last = wish.may_tunnel();
    let Routed {
        port,
        policy,
        ruled,
    } = routed;
    let response = attempts::send(exchange, Target { port, policy }, request, is_http2).await?;
    let sent = Sent {
        wish,
        ruled,
        origin,
        client,
    };
    sent.answered(exchange, response)
}

/// Judges a request, and notes what is told of it whatever becomes of it.
fn judge(
    exchange: &mut Exchange,
    parts: &mut Parts,
    port: Option<&Arc<ServicePort>>,
) -> Result<Wish, Error> {
    let connection = Arc::clone(&exchange.connection);
    let wish = headers::admit(parts, &connection, port.map(|port| &**port));
    exchange.is_grpc = wish.as_ref().is_ok_and(|wish| wish.is_grpc);
    note(exchange, parts, wish.as_ref().ok());
    exchange.port = port.map(Arc::clone);
    wish
}

/// Makes the request that the endpoint gets.
fn prepare(
    exchange: &mut Exchange,
    (mut parts, body): (Parts, Received),
    wish: &mut Wish,
    routed: &Routed,
    is_http2: bool,
) -> Result<Asked, Error> {
    let connection = Arc::clone(&exchange.connection);
    let has_body = !wish.is_connect && !body.is_end_stream();
    let additions = Additions {
        caller: connection.forwarded_for(),
        random: rand::random,
    };
    headers::clean_request(&mut parts, wish, additions);
    let mut tees = Vec::new();
    if let Some(ruled) = &routed.ruled {
        let mut asked = None;
        // What is changed for a backend alone is none of the business of those who get copies by the rule.
        for filters in ruled.filters() {
            let asked = asked.get_or_insert_with(|| parts.uri.clone());
            filters::request(filters, (asked, ruled.prefix), &mut parts, wish)?;
            tees.extend(mirror::send(&connection, filters, &parts, wish, has_body));
        }
    }
    headers::rewrite(&mut parts, wish, &routed.port.host, is_http2, has_body)?;
    note(exchange, &parts, Some(wish));
    let body = if has_body {
        Outgoing::Streamed(Box::new(exchange.upload(body, tees)))
    } else {
        Outgoing::Empty
    };
    let mut request = Box::new(Request::from_parts(parts, body));
    if wish.takes_interim {
        let number = connection.pulse.interim.open();
        if !is_http2 {
            Interim::relay(&connection.pulse, number, &mut request);
        }
    }
    Ok(request)
}

/// What is remembered of a request until its response has come.
struct Sent {
    wish: Wish,
    ruled: Option<Ruled>,
    origin: Option<HeaderValue>,
    client: Option<End>,
}

impl Sent {
    /// Makes the response that the client gets.
    fn answered(
        self,
        exchange: &mut Exchange,
        mut response: Response<Received>,
    ) -> Result<Answer, Error> {
        exchange.answered(response.status(), response.headers());
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if is_switch && !self.wish.has_asked_for(response.headers()) {
            return Err(unasked(exchange));
        }
        let is_tunnel = is_switch || (self.wish.is_connect && response.status().is_success());
        let after = After::of(is_tunnel, &exchange.connection);
        headers::clean_response(&mut response, after).map_err(|what| bad(exchange, what))?;
        exchange.tell_session(response.headers_mut());
        let asked = exchange.asked();
        exchange.admitted.answered(asked, response.headers_mut());
        if let Some(ruled) = &self.ruled {
            filters::response(ruled, response.headers_mut(), self.origin.as_ref());
        }
        if !is_tunnel {
            return Ok(Answer::Streamed(response));
        }
        let client = self.client.ok_or_else(|| unasked(exchange))?;
        exchange.admitted.leave();
        let (response, endpoint) = End::of(response);
        Ok(Answer::Switched {
            response: response.map(|()| Reply::Text(None)),
            client,
            endpoint,
        })
    }
}

/// The service port as it is now: endpoints and policies may change while a connection lives.
async fn service_port(connection: &Connection) -> Option<Arc<ServicePort>> {
    let views = &connection.worker.views;
    let dialled = &connection.caller.conn.original;
    if let Some(port) = views.load().port(dialled) {
        return Some(Arc::clone(port));
    }
    views.catch_up().await;
    views.load().port(dialled).map(Arc::clone)
}

/// What the endpoint is spoken to: as declared, else as the client speaks.
pub(crate) fn speaks_http2(port: &ServicePort, connection: &Connection) -> bool {
    match port.protocol {
        Protocol::Http => false,
        Protocol::Http2 | Protocol::Grpc => true,
        Protocol::Tcp | Protocol::Tls | Protocol::Udp | Protocol::Auto => connection.is_http2,
    }
}

/// Keeps for the access log what the head says; the later call also knows what the proxy has added.
fn note(exchange: &mut Exchange, parts: &Parts, wish: Option<&Wish>) {
    if exchange.connection.worker.config.access_log.is_enabled() {
        let authority = wish.and_then(|wish| wish.authority.as_ref());
        let head = exchange.head.get_or_insert_default();
        head.note(parts, authority.map(Authority::as_str));
    }
}

fn unasked(exchange: &mut Exchange) -> Error {
    Error::UnaskedUpgrade(give_up(exchange))
}

fn bad(exchange: &mut Exchange, what: &'static str) -> Error {
    let endpoint = give_up(exchange);
    Error::BadResponse { endpoint, what }
}

/// Nobody knows what follows on the connection to the endpoint: it serves no other request.
fn give_up(exchange: &mut Exchange) -> SocketAddr {
    exchange.lease = None;
    let endpoint = exchange.active.as_ref();
    endpoint.map_or(exchange.connection.caller.original, |active| {
        active.endpoint().address
    })
}

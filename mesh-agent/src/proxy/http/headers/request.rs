//! Whether a request is sound: refuses what two servers could read in two ways.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};

use super::authority::{self, LastHost, Target};
use super::{connection_tokens, fields};
use crate::proxy::error::Error;
use crate::proxy::http::Connection;
use crate::proxy::view::ServicePort;
use crate::proxy::view::routes::HttpRoutes;
use crate::traffic::fields::Fields;
use crate::traffic::path;
use crate::traffic::route::Request;

/// What a request asks for, once its head has been found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Whom it names, in the one spelling: what policy and routing see is what the endpoint gets.
    pub(crate) authority: Option<Authority>,
    /// The protocols it would switch to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// It is a CONNECT.
    pub(crate) is_connect: bool,
    /// Its client speaks HTTP/1.1, and knows interim responses; of HTTP/2 all do.
    pub(crate) takes_interim: bool,
    /// What its client takes of a body besides the bytes. Known once it is clean.
    pub(crate) te: Option<HeaderValue>,
    /// It is a gRPC call.
    pub(crate) is_grpc: bool,
}

impl Wish {
    /// The host that it names, without the port.
    pub(crate) fn host(&self) -> Option<&str> {
        self.authority.as_ref().map(authority::host)
    }

    /// The request with the head `parts`, as routes compare it.
    pub(crate) fn request<'a>(&'a self, parts: &'a Parts) -> Request<'a> {
        Request {
            host: self.host(),
            authority: self.authority.as_ref().map(Authority::as_str),
            path: parts.uri.path(),
            query: parts.uri.query(),
            method: &parts.method,
            headers: &parts.headers,
            is_grpc: self.is_grpc,
        }
    }

    /// Its fields, as policies name them.
    pub(crate) fn fields<'a>(&'a self, headers: &'a HeaderMap) -> Fields<'a> {
        Fields {
            headers,
            authority: self.authority.as_ref().map(Authority::as_str),
        }
    }

    /// Whether it may turn the connection into a tunnel. Such a connection serves no other request, whatever the answer.
    pub(crate) const fn may_tunnel(&self) -> bool {
        self.is_connect || self.upgrade.is_some()
    }

    /// Gives up the switch of protocols, before a service that knows none. A server may pass over what it is offered; a
    /// client that wants a WebSocket has no use for anything else.
    pub(crate) fn forgo_upgrade(&mut self) -> Result<(), Error> {
        let asked = self.upgrade.take();
        let is_websocket = |protocol: &str| protocol.eq_ignore_ascii_case("websocket");
        if asked
            .as_ref()
            .is_some_and(|it| protocols(it).any(is_websocket))
        {
            return Err(Error::BadRequest(
                "the service speaks HTTP/2, which has no upgrades",
            ));
        }
        Ok(())
    }

    /// Whether an answer that switches protocols says to which, and all were asked for.
    pub(crate) fn has_asked_for(&self, answer: &HeaderMap) -> bool {
        let Some(asked) = &self.upgrade else {
            return false;
        };
        let is_asked =
            |protocol: &str| protocols(asked).any(|it| it.eq_ignore_ascii_case(protocol));
        let mut chosen = fields::listed(answer, &header::UPGRADE).peekable();
        chosen.peek().is_some() && chosen.all(is_asked)
    }
}

/// The protocols of an `upgrade` that [`upgrade`] has made.
fn protocols(upgrade: &HeaderValue) -> impl Iterator<Item = &str> {
    upgrade.to_str().unwrap_or_default().split(", ")
}

/// Judges a request to `port` and gives its path the one spelling.
pub(crate) fn admit(
    parts: &mut Parts,
    connection: &Connection,
    port: Option<&ServicePort>,
) -> Result<Wish, Error> {
    // Asked for each request: it keeps count of them.
    if connection.pulse.is_framed_twice() {
        return Err(Error::BadRequest(
            "both transfer-encoding and content-length",
        ));
    }
    let routes = port.and_then(|it| it.http_routes(&connection.caller.workload.key.namespace));
    let mode = connection.worker.config.path_normalization;
    judge(parts, &connection.last_host, routes, mode)
}

/// Judges a request that `routes` are for, and gives its path the one spelling.
pub(crate) fn judge(
    parts: &mut Parts,
    last: &LastHost,
    routes: Option<&HttpRoutes>,
    mode: path::Mode,
) -> Result<Wish, Error> {
    let wish = check(parts, last)?;
    let tells_paths_apart = routes.is_some_and(HttpRoutes::tells_paths_apart);
    normalize(parts, mode.resolved(tells_paths_apart))?;
    Ok(wish)
}

/// Refuses heads that two servers could read in two ways.
pub(crate) fn check(parts: &Parts, last: &LastHost) -> Result<Wish, Error> {
    let headers = &parts.headers;
    if !fields::are_trimmed(headers) {
        return Err(Error::BadRequest("white space around the value of a field"));
    }
    if parts.version != Version::HTTP_11 && headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Error::BadRequest("transfer-encoding belongs to HTTP/1.1"));
    }
    fields::check_framing(headers).map_err(|unclear| Error::BadRequest(unclear.0))?;
    check_target(parts)?;
    let authority = check_authority(parts, last)?;
    Ok(Wish {
        authority,
        upgrade: upgrade(parts),
        is_connect: parts.method == Method::CONNECT,
        takes_interim: parts.version == Version::HTTP_11,
        te: None,
        is_grpc: is_grpc(headers),
    })
}

fn check_target(parts: &Parts) -> Result<(), Error> {
    let scheme = parts.uri.scheme();
    if parts.method == Method::CONNECT {
        let target = parts.uri.authority().map(Authority::as_str);
        let port = target
            .and_then(Target::parse)
            .and_then(|target| target.port);
        if port.is_none() || scheme.is_some() || parts.uri.path().len() > 1 {
            return Err(Error::BadRequest("CONNECT wants a host and a port"));
        }
        if parts.extensions.get::<hyper::ext::Protocol>().is_some() {
            return Err(Error::BadRequest("extended CONNECT was not offered"));
        }
        if parts.headers.contains_key(header::CONTENT_LENGTH)
            || parts.headers.contains_key(header::TRANSFER_ENCODING)
        {
            return Err(Error::BadRequest("CONNECT has no body"));
        }
        return Ok(());
    }
    if scheme.is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(Error::BadRequest("the scheme is not http or https"));
    }
    Ok(())
}

fn check_authority(parts: &Parts, last: &LastHost) -> Result<Option<Authority>, Error> {
    const BAD: Error = Error::BadRequest("the host is not a name or address with a port");
    let headers = &parts.headers;
    let host = headers.get(header::HOST);
    if fields::has_repeated(headers) && headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Error::BadRequest("more than one host"));
    }
    if host.is_none() && parts.version == Version::HTTP_11 {
        return Err(Error::BadRequest("no host"));
    }
    let target = parts.uri.authority();
    let known = match (target, host) {
        (Some(target), None) => last.recall(target.as_str().as_bytes()),
        (None, Some(host)) => last.recall(host.as_bytes()),
        _ => None,
    };
    if known.is_some() {
        return Ok(known);
    }
    let host = match host {
        Some(value) => Some(Authority::try_from(value.as_bytes()).ok().ok_or(BAD)?),
        None => None,
    };
    let Some(text) = target.or(host.as_ref()) else {
        return Ok(None);
    };
    let named = Target::parse(text.as_str()).ok_or(BAD)?;
    if let (Some(_), Some(host)) = (target, &host) {
        let host = Target::parse(host.as_str()).ok_or(BAD)?;
        let default = default_port(parts.uri.scheme());
        if !named.is_same(&host, default) {
            return Err(Error::BadRequest(
                "host differs from the target of the request",
            ));
        }
    }
    let canonical = named.canonical(text).ok_or(BAD)?;
    last.remember(&canonical);
    Ok(Some(canonical))
}

fn default_port(scheme: Option<&Scheme>) -> u16 {
    if scheme == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    }
}

/// Gives the path its one spelling.
fn normalize(parts: &mut Parts, mode: path::Mode) -> Result<(), Error> {
    let path = parts.uri.path();
    if parts.method == Method::CONNECT || (parts.method == Method::OPTIONS && path == "*") {
        return Ok(());
    }
    let normal = path::normalize(path, mode);
    let normal = match normal.map_err(|why| Error::BadRequest(why.as_str()))? {
        Cow::Borrowed(_) => return Ok(()),
        Cow::Owned(normal) => normal,
    };
    let text = match parts.uri.query() {
        Some(query) => normal + "?" + query,
        None => normal,
    };
    let bad = || Error::BadRequest("the target is not a path");
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.path_and_query = Some(PathAndQuery::try_from(text).ok().ok_or_else(bad)?);
    parts.uri = Uri::from_parts(uri).ok().ok_or_else(bad)?;
    Ok(())
}

/// The protocols that it offers to switch to, as far as they are passed on.
fn upgrade(parts: &Parts) -> Option<HeaderValue> {
    let headers = &parts.headers;
    if parts.version != Version::HTTP_11 || !headers.contains_key(header::UPGRADE) {
        return None;
    }
    if !lists(headers, "upgrade") {
        return None;
    }
    let offered = fields::listed(headers, &header::UPGRADE);
    let kept: Vec<&str> = offered.filter(|it| is_passed_on(it)).collect();
    if kept.is_empty() {
        return None;
    }
    HeaderValue::try_from(kept.join(", ")).ok()
}

/// Whether a protocol may follow on a connection. Never HTTP: that would smuggle requests past the proxy. Nor TLS (RFC 2817),
/// which some clients offer to every server: it would end at the endpoint, and hide from the proxy what follows.
fn is_passed_on(protocol: &str) -> bool {
    let begins = |with: &str| {
        let start = protocol.as_bytes().get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    !protocol.is_empty() && !["h2", "http/", "tls/"].into_iter().any(begins)
}

/// Whether `connection` lists `token`.
fn lists(headers: &HeaderMap, token: &str) -> bool {
    connection_tokens(headers).any(|listed| listed.eq_ignore_ascii_case(token))
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

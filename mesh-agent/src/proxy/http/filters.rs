//! What the filters of a route do to requests and responses: those of the rule first, then those of the backend; on the
//! way back the other way round.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};

use super::headers::{self, Wish};
use super::routes::Ruled;
use crate::proxy::error::Error;
use crate::proxy::view::ServicePort;
use crate::traffic::route::Request;
use crate::traffic::route::filter::Filters;
use crate::traffic::route::redirect::Asked;
use crate::traffic::route::rewrite::Rewrite;

impl Ruled {
    /// The filters that hold, those of the rule first.
    pub(crate) fn filters(&self) -> impl DoubleEndedIterator<Item = &Filters> {
        [&self.rule.filters, &self.backend.filters]
            .into_iter()
            .filter_map(Option::as_deref)
    }
}

/// The answer that the filters of a rule or a backend give themselves: to a question about origins, or a redirect. They
/// mark it as they would mark that of an endpoint.
pub(crate) fn answer(
    filters: &Filters,
    request: &Request<'_>,
    port: &ServicePort,
    prefix: Option<usize>,
) -> Option<(StatusCode, HeaderMap)> {
    if let Some(cors) = &filters.cors
        && let Some((status, mut headers)) = cors.preflight(request.method, request.headers)
    {
        if let Some(edits) = &filters.response {
            edits.apply(&mut headers);
        }
        return Some((status, headers));
    }
    let redirect = filters.redirect.as_ref()?;
    let location = redirect.location(&Asked {
        host: request.host.unwrap_or(&port.host),
        port: port.port,
        path: request.path,
        prefix,
        query: request.query,
    });
    let mut headers = HeaderMap::new();
    // What was a target and hosts that were checked make no bad value; without a place it would be no redirect.
    let location = HeaderValue::try_from(location).ok()?;
    headers.insert(header::LOCATION, location);
    mark(filters, &mut headers, request.headers.get(header::ORIGIN));
    Some((redirect.status, headers))
}

/// Changes a request as the filters of a rule or a backend want it. `asked` is what the client has asked for, with the
/// bytes of its path that a prefix has matched: a new path is made of that, so that a backend's takes the place of that
/// of its rule.
pub(crate) fn request(
    filters: &Filters,
    asked: (&Uri, Option<usize>),
    parts: &mut Parts,
    wish: &mut Wish,
) -> Result<(), Error> {
    if let Some(edits) = &filters.request {
        for name in edits.names() {
            headers::remove_lookalikes(&mut parts.headers, name);
        }
        edits.apply(&mut parts.headers);
    }
    match &filters.rewrite {
        Some(to) => rewrite(to, asked, parts, wish),
        None => Ok(()),
    }
}

fn rewrite(
    to: &Rewrite,
    (asked, prefix): (&Uri, Option<usize>),
    parts: &mut Parts,
    wish: &mut Wish,
) -> Result<(), Error> {
    if let Some(host) = &to.host {
        wish.authority = Some(host.clone());
    }
    let Some(path) = to.path.as_ref().filter(|_| !wish.is_connect) else {
        return Ok(());
    };
    let path = path.apply(asked.path(), prefix, asked.query());
    let path = PathAndQuery::try_from(path).ok().ok_or(Error::BadFilter)?;
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.path_and_query = Some(path);
    parts.uri = Uri::from_parts(uri).ok().ok_or(Error::BadFilter)?;
    Ok(())
}

/// The origin that a request names, if a filter wants to know.
pub(crate) fn origin(ruled: &Ruled, parts: &Parts) -> Option<HeaderValue> {
    let mut filters = ruled.filters();
    filters
        .any(|filters| filters.cors.is_some())
        .then(|| parts.headers.get(header::ORIGIN).cloned())
        .flatten()
}

/// Changes a response. `origin` is that of its request.
pub(crate) fn response(ruled: &Ruled, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    for filters in ruled.filters().rev() {
        mark(filters, headers, origin);
    }
}

/// Changes a response as the filters of a rule or a backend want it.
pub(crate) fn mark(filters: &Filters, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    if let Some(edits) = &filters.response {
        edits.apply(headers);
    }
    if let Some(cors) = &filters.cors {
        cors.answer(headers, origin);
    }
}

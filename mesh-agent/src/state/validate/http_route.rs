//! Rules of `HTTPRoute` (Gateway API v1.5, with its experimental fields).

use super::filter::{Place, filters};
use super::{bound, http, route};
use crate::state::Refusal;
use crate::state::duration::Duration;
use crate::state::http_route::{
    HttpPathMatch, HttpRouteMatch, HttpRouteRetry, HttpRouteRule, HttpRouteSpec, HttpRouteTimeouts,
    PathMatchType,
};
use crate::state::reference::Backend;
use crate::state::route::FilterType;

/// Most retries of a rule.
pub(super) const MAX_RETRIES: u32 = 10;

/// Checks a route by itself: its parents and backends may come later.
pub(super) fn check(spec: &HttpRouteSpec) -> Result<(), Refusal> {
    route::parents(&spec.parent_refs)?;
    http::hostnames(&spec.hostnames, http::MAX_HOSTNAMES)?;
    if spec.rules.is_empty() {
        return Err(Refusal::invalid("spec.rules", "at least one rule"));
    }
    route::rules(spec.rules.iter().map(|it| it.name.as_ref()))?;
    route::matches(spec.rules.iter().map(|it| it.matches.len()))?;
    for (index, it) in spec.rules.iter().enumerate() {
        rule(&format!("spec.rules[{index}]"), it)?;
    }
    Ok(())
}

fn rule(field: &str, rule: &HttpRouteRule) -> Result<(), Refusal> {
    for (index, it) in rule.matches.iter().enumerate() {
        request(&format!("{field}.matches[{index}]"), it)?;
    }
    let place = Place::Http {
        is_prefix: is_one_prefix(&rule.matches),
    };
    filters(field, &rule.filters, place)?;
    let mut redirects = rule.filters.iter().map(|it| it.kind);
    if redirects.any(|it| it == FilterType::RequestRedirect) && !rule.backend_refs.is_empty() {
        return Err(Refusal::invalid(
            format!("{field}.backendRefs"),
            "a rule that redirects sends to nobody",
        ));
    }
    bound::at_most(
        &format!("{field}.backendRefs"),
        &rule.backend_refs,
        route::MAX_BACKENDS,
    )?;
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        route::backend(&field, &Backend::from(backend))?;
        route::weight(&field, backend.weight)?;
        filters(&field, &backend.filters, place)?;
    }
    if let Some(it) = &rule.timeouts {
        timeouts(&format!("{field}.timeouts"), it)?;
    }
    if let Some(it) = &rule.retry {
        retry(&format!("{field}.retry"), it)?;
    }
    let session = rule.session_persistence.as_ref();
    session.map_or(Ok(()), |it| {
        route::session(&format!("{field}.sessionPersistence"), it)
    })
}

fn request(field: &str, request: &HttpRouteMatch) -> Result<(), Refusal> {
    if let Some(it) = &request.path {
        path(&format!("{field}.path.value"), it)?;
    }
    http::name_matches(&format!("{field}.headers"), &request.headers, true)?;
    http::name_matches(
        &format!("{field}.queryParams"),
        &request.query_params,
        false,
    )?;
    let method = request.method.as_ref();
    method.map_or(Ok(()), |it| http::method(&format!("{field}.method"), it))
}

fn path(field: &str, path: &HttpPathMatch) -> Result<(), Refusal> {
    match path.kind {
        PathMatchType::Exact | PathMatchType::PathPrefix => http::match_path(field, &path.value),
        PathMatchType::RegularExpression => {
            bound::length(field, &path.value, 1..=http::MAX_PATH)?;
            http::regular_expression(field, &path.value)
        }
    }
}

/// Whether a rule matches exactly one prefix, so that what replaces it is plain.
fn is_one_prefix(matches: &[HttpRouteMatch]) -> bool {
    let is_prefix = |it: &HttpRouteMatch| {
        let path = it.path.as_ref();
        path.is_none_or(|path| path.kind == PathMatchType::PathPrefix)
    };
    match matches {
        [] => true,
        [one] => is_prefix(one),
        _ => false,
    }
}

fn timeouts(field: &str, timeouts: &HttpRouteTimeouts) -> Result<(), Refusal> {
    attempt_within_request(field, timeouts.request, timeouts.backend_request)
}

/// One attempt takes no longer than all of them. Zero is no deadline.
pub(super) fn attempt_within_request(
    field: &str,
    request: Option<Duration>,
    attempt: Option<Duration>,
) -> Result<(), Refusal> {
    let request = request.filter(|it| !it.is_zero());
    match (request, attempt) {
        (Some(request), Some(attempt)) if attempt > request => Err(Refusal::invalid(
            format!("{field}.backendRequest"),
            format!("at most `request`, {request}"),
        )),
        _ => Ok(()),
    }
}

fn retry(field: &str, retry: &HttpRouteRetry) -> Result<(), Refusal> {
    for (index, code) in retry.codes.iter().enumerate() {
        bound::within(&format!("{field}.codes[{index}]"), *code, 400..=599)?;
    }
    if let Some(index) = bound::repeated(&retry.codes) {
        let field = format!("{field}.codes[{index}]");
        return Err(Refusal::invalid(field, "each code only once"));
    }
    bound::within_if(
        &format!("{field}.attempts"),
        retry.attempts,
        0..=MAX_RETRIES,
    )
}

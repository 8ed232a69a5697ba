//! Rules of `GRPCRoute` (Gateway API v1.5, with its experimental fields).

use super::filter::{Place, filters};
use super::{bound, http, route};
use crate::state::Refusal;
use crate::state::grpc_route::{GrpcMethodMatch, GrpcRouteRule, GrpcRouteSpec};
use crate::state::reference::Backend;
use crate::state::route::StringMatchType;

/// Checks a route by itself: its parents and backends may come later.
pub(super) fn check(spec: &GrpcRouteSpec) -> Result<(), Refusal> {
    route::parents(&spec.parent_refs)?;
    http::hostnames(&spec.hostnames, http::MAX_HOSTNAMES)?;
    route::rules(spec.rules.iter().map(|it| it.name.as_ref()))?;
    route::matches(spec.rules.iter().map(|it| it.matches.len()))?;
    for (index, it) in spec.rules.iter().enumerate() {
        rule(&format!("spec.rules[{index}]"), it)?;
    }
    Ok(())
}

fn rule(field: &str, rule: &GrpcRouteRule) -> Result<(), Refusal> {
    for (index, it) in rule.matches.iter().enumerate() {
        let field = format!("{field}.matches[{index}]");
        http::name_matches(&format!("{field}.headers"), &it.headers, true)?;
        if let Some(it) = &it.method {
            method(&format!("{field}.method"), it)?;
        }
    }
    filters(field, &rule.filters, Place::Grpc)?;
    let backends = format!("{field}.backendRefs");
    bound::at_most(&backends, &rule.backend_refs, route::MAX_BACKENDS)?;
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        let field = format!("{backends}[{index}]");
        route::backend(&field, &Backend::from(backend))?;
        route::weight(&field, backend.weight)?;
        filters(&field, &backend.filters, Place::Grpc)?;
    }
    let session = rule.session_persistence.as_ref();
    session.map_or(Ok(()), |it| {
        route::session(&format!("{field}.sessionPersistence"), it)
    })
}

fn method(field: &str, method: &GrpcMethodMatch) -> Result<(), Refusal> {
    if method.service.is_none() && method.method.is_none() {
        return Err(Refusal::invalid(field, "service or method is needed"));
    }
    let parts = [
        ("service", &method.service, true),
        ("method", &method.method, false),
    ];
    for (name, text, may_have_dots) in parts {
        let Some(text) = text else { continue };
        let field = format!("{field}.{name}");
        bound::length(&field, text, 0..=http::MAX_PATH)?;
        match method.kind {
            StringMatchType::RegularExpression => http::regular_expression(&field, text)?,
            StringMatchType::Exact if is_name(text, may_have_dots) => {}
            StringMatchType::Exact => {
                return Err(Refusal::invalid(
                    field,
                    "a name as in a .proto file: letters, digits and _, no digit first",
                ));
            }
        }
    }
    Ok(())
}

/// A name of a service (with its package) or method.
fn is_name(text: &str, may_have_dots: bool) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && word
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || it == b'_')
    };
    if may_have_dots {
        text.strip_prefix('.')
            .unwrap_or(text)
            .split('.')
            .all(is_word)
    } else {
        is_word(text)
    }
}

//! Filters of HTTP and gRPC rules, and of their backends.

use super::{bound, cors, http, not_zero, route};
use crate::state::Refusal;
use crate::state::reference::Backend;
use crate::state::route::{
    FilterType, Header, HeaderModifier, HttpFilter, PathModifier, PathModifierType, RequestMirror,
    RequestRedirect, UrlRewrite,
};

/// Most filters of a rule, and of a backend.
const MAX_FILTERS: usize = 16;
/// Most headers of one change, and entries of one list of headers.
const MAX_HEADERS: usize = 16;
/// Headers that frame a message or belong to one connection: the proxy writes them.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Where filters stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In an HTTP rule; `is_prefix`: it matches one prefix of paths, of which a part can be replaced.
    Http { is_prefix: bool },
    /// In a gRPC rule.
    Grpc,
}

/// Checks a list of filters.
pub(super) fn filters(field: &str, filters: &[HttpFilter], place: Place) -> Result<(), Refusal> {
    let field = format!("{field}.filters");
    bound::at_most(&field, filters, MAX_FILTERS)?;
    for (index, filter) in filters.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let before = || filters.iter().take(index).map(|it| it.kind);
        if filter.kind != FilterType::RequestMirror && before().any(|it| it == filter.kind) {
            return Err(Refusal::invalid(
                format!("{field}.type"),
                "such a filter only once",
            ));
        }
        let excluded = match filter.kind {
            FilterType::RequestRedirect => Some(FilterType::UrlRewrite),
            FilterType::UrlRewrite => Some(FilterType::RequestRedirect),
            _ => None,
        };
        if before().any(|it| Some(it) == excluded) {
            return Err(Refusal::invalid(
                format!("{field}.type"),
                "either a redirect or a rewrite",
            ));
        }
        check(&field, filter, place)?;
    }
    Ok(())
}

fn check(field: &str, filter: &HttpFilter, place: Place) -> Result<(), Refusal> {
    field_of_type(field, filter)?;
    let is_grpc = place == Place::Grpc;
    if is_grpc
        && matches!(
            filter.kind,
            FilterType::RequestRedirect | FilterType::UrlRewrite | FilterType::Cors
        )
    {
        return Err(Refusal::invalid(
            format!("{field}.type"),
            "not for gRPC: headers and mirrors only",
        ));
    }
    let field = format!("{field}.{}", name_of(filter.kind));
    let is_prefix = place == Place::Http { is_prefix: true };
    if let Some(modifier) = &filter.request_header_modifier {
        headers(&field, modifier)?;
    }
    if let Some(modifier) = &filter.response_header_modifier {
        headers(&field, modifier)?;
    }
    if let Some(it) = &filter.request_mirror {
        mirror(&field, it)?;
    }
    if let Some(it) = &filter.request_redirect {
        redirect(&field, it, is_prefix)?;
    }
    if let Some(it) = &filter.url_rewrite {
        rewrite(&field, it, is_prefix)?;
    }
    filter
        .cors
        .as_ref()
        .map_or(Ok(()), |it| cors::check(&field, it))
}

/// The field of its type is given, and no other.
fn field_of_type(field: &str, filter: &HttpFilter) -> Result<(), Refusal> {
    let given = [
        (
            FilterType::RequestHeaderModifier,
            filter.request_header_modifier.is_some(),
        ),
        (
            FilterType::ResponseHeaderModifier,
            filter.response_header_modifier.is_some(),
        ),
        (FilterType::RequestMirror, filter.request_mirror.is_some()),
        (
            FilterType::RequestRedirect,
            filter.request_redirect.is_some(),
        ),
        (FilterType::UrlRewrite, filter.url_rewrite.is_some()),
        (FilterType::Cors, filter.cors.is_some()),
    ];
    for (kind, is_given) in given {
        let name = name_of(kind);
        if kind == filter.kind && !is_given {
            return Err(Refusal::invalid(
                format!("{field}.{name}"),
                "is needed for this type",
            ));
        }
        if kind != filter.kind && is_given {
            return Err(Refusal::invalid(
                format!("{field}.{name}"),
                "does not belong to this type",
            ));
        }
    }
    Ok(())
}

const fn name_of(kind: FilterType) -> &'static str {
    match kind {
        FilterType::RequestHeaderModifier => "requestHeaderModifier",
        FilterType::ResponseHeaderModifier => "responseHeaderModifier",
        FilterType::RequestMirror => "requestMirror",
        FilterType::RequestRedirect => "requestRedirect",
        FilterType::UrlRewrite => "urlRewrite",
        FilterType::Cors => "cors",
    }
}

fn headers(field: &str, modifier: &HeaderModifier) -> Result<(), Refusal> {
    let list = |name: &str, headers: &[Header]| {
        let field = format!("{field}.{name}");
        bound::at_most(&field, headers, MAX_HEADERS)?;
        for (index, header) in headers.iter().enumerate() {
            let field = format!("{field}[{index}]");
            changeable(&format!("{field}.name"), &header.name)?;
            http::header_value(&format!("{field}.value"), &header.value)?;
        }
        once(&field, headers.iter().map(|it| it.name.as_str()), ".name")
    };
    list("set", &modifier.set)?;
    list("add", &modifier.add)?;
    let remove = format!("{field}.remove");
    bound::at_most(&remove, &modifier.remove, MAX_HEADERS)?;
    for (index, name) in modifier.remove.iter().enumerate() {
        changeable(&format!("{remove}[{index}]"), name)?;
    }
    once(&remove, modifier.remove.iter().map(String::as_str), "")?;
    in_one_list(field, modifier)
}

/// Each name in one list only: what is done to it would depend on the order.
fn in_one_list(field: &str, modifier: &HeaderModifier) -> Result<(), Refusal> {
    let HeaderModifier { set, add, remove } = modifier;
    let has =
        |list: &[Header], name: &str| list.iter().any(|it| it.name.eq_ignore_ascii_case(name));
    let added = add.iter().position(|it| has(set, &it.name));
    let removed = remove.iter().position(|it| has(set, it) || has(add, it));
    let place = match (added, removed) {
        (None, None) => return Ok(()),
        (Some(index), _) => format!("{field}.add[{index}].name"),
        (None, Some(index)) => format!("{field}.remove[{index}]"),
    };
    Err(Refusal::invalid(
        place,
        "each name in one of set, add and remove only",
    ))
}

/// A header that people may change.
fn changeable(field: &str, name: &str) -> Result<(), Refusal> {
    http::token(field, name)?;
    if FRAMING.iter().any(|it| it.eq_ignore_ascii_case(name)) {
        return Err(Refusal::invalid(
            field,
            "the proxy writes this header; a host is changed by URLRewrite",
        ));
    }
    Ok(())
}

/// Each name only once, in any case; `part` is the field of the item that holds it.
pub(super) fn once<'a, I>(field: &str, names: I, part: &str) -> Result<(), Refusal>
where
    I: Iterator<Item = &'a str>,
{
    match bound::repeated(names.map(str::to_ascii_lowercase)) {
        None => Ok(()),
        Some(index) => Err(Refusal::invalid(
            format!("{field}[{index}]{part}"),
            "each name only once",
        )),
    }
}

fn mirror(field: &str, mirror: &RequestMirror) -> Result<(), Refusal> {
    let backend = Backend::from(&mirror.backend_ref);
    route::backend(&format!("{field}.backendRef"), &backend)?;
    bound::within_if(&format!("{field}.percent"), mirror.percent, 0..=100)?;
    let Some(fraction) = mirror.fraction else {
        return Ok(());
    };
    let field = format!("{field}.fraction");
    if mirror.percent.is_some() {
        return Err(Refusal::invalid(field, "either percent or fraction"));
    }
    if fraction.denominator == 0 {
        return Err(Refusal::invalid(
            format!("{field}.denominator"),
            "at least 1",
        ));
    }
    bound::within(
        &format!("{field}.numerator"),
        fraction.numerator,
        0..=fraction.denominator,
    )
}

fn redirect(field: &str, redirect: &RequestRedirect, is_prefix: bool) -> Result<(), Refusal> {
    if let Some(scheme) = &redirect.scheme
        && !matches!(scheme.as_str(), "http" | "https")
    {
        return Err(Refusal::invalid(format!("{field}.scheme"), "http or https"));
    }
    if let Some(hostname) = &redirect.hostname {
        http::hostname(&format!("{field}.hostname"), hostname)?;
    }
    if let Some(path) = &redirect.path {
        modifier(&format!("{field}.path"), path, is_prefix)?;
    }
    if let Some(port) = redirect.port {
        not_zero(&format!("{field}.port"), port)?;
    }
    match redirect.status_code {
        None | Some(301 | 302 | 303 | 307 | 308) => Ok(()),
        Some(_) => Err(Refusal::invalid(
            format!("{field}.statusCode"),
            "301, 302, 303, 307 or 308",
        )),
    }
}

fn rewrite(field: &str, rewrite: &UrlRewrite, is_prefix: bool) -> Result<(), Refusal> {
    if let Some(hostname) = &rewrite.hostname {
        http::hostname(&format!("{field}.hostname"), hostname)?;
    }
    let path = rewrite.path.as_ref();
    path.map_or(Ok(()), |it| {
        modifier(&format!("{field}.path"), it, is_prefix)
    })
}

fn modifier(field: &str, path: &PathModifier, is_prefix: bool) -> Result<(), Refusal> {
    let full = ("replaceFullPath", path.replace_full_path.as_deref());
    let prefix = ("replacePrefixMatch", path.replace_prefix_match.as_deref());
    let ((name, wanted), (other_name, other)) = match path.kind {
        PathModifierType::ReplaceFullPath => (full, prefix),
        PathModifierType::ReplacePrefixMatch => (prefix, full),
    };
    if other.is_some() {
        let field = format!("{field}.{other_name}");
        return Err(Refusal::invalid(field, "does not belong to this type"));
    }
    let field = format!("{field}.{name}");
    let Some(wanted) = wanted else {
        return Err(Refusal::invalid(field, "is needed for this type"));
    };
    if path.kind == PathModifierType::ReplacePrefixMatch && !is_prefix {
        return Err(Refusal::invalid(
            field,
            "the rule has exactly one match, by PathPrefix, or there is no prefix to replace",
        ));
    }
    // An empty text takes the prefix away, or leads to `/`.
    if wanted.is_empty() {
        return Ok(());
    }
    http::absolute_path(&field, wanted)
}

//! What one match of a route means: its path, and the conditions that must hold beside it.

use std::borrow::Cow;

use http::Method;
use http::header::{self, HeaderName};
use regex::Regex;

use super::condition::Conditions;
use super::text::{self, TextMatch};
use crate::state::grpc_route::{GrpcMethodMatch, GrpcRouteMatch};
use crate::state::http_route::{HttpRouteMatch, PathMatchType};
use crate::state::route::{NameMatch, StringMatchType};
use crate::traffic::path::{self, Mode};

pub(super) type Compiled<T> = Result<T, (String, String)>;

/// Which paths.
#[derive(Clone, Debug)]
pub(super) enum PathMatch {
    /// This one.
    Exact(Box<str>),
    /// Those that begin with these segments; written without a slash at the end, so that all paths are the empty text.
    Prefix(Box<str>),
    /// Those that an expression describes.
    Expression {
        regex: Regex,
        /// The larger goes first: characters of the expression, or of the service and the method.
        rank: (u32, u32),
        /// Bytes of whole segments that all of them begin with.
        scope: usize,
    },
}

impl PathMatch {
    /// The same in the spelling that requests are given, where that is another. Where paths pass as they come, the one
    /// in which it was written counts too.
    pub(super) fn normalised(&self) -> Option<Self> {
        let normal = |text: &str| match path::normalize(text, Mode::MergeSlashes) {
            Ok(Cow::Owned(normal)) => Some(normal),
            Ok(Cow::Borrowed(_)) | Err(_) => None,
        };
        match self {
            Self::Exact(path) => Some(Self::Exact(normal(path)?.into())),
            Self::Prefix(prefix) => Some(Self::prefix(&normal(prefix)?)),
            Self::Expression { .. } => None,
        }
    }

    fn prefix(path: &str) -> Self {
        Self::Prefix(path.strip_suffix('/').unwrap_or(path).into())
    }

    /// Whether it leaves no path out.
    pub(super) fn is_everything(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.is_empty())
    }
}

/// What an HTTP match means.
pub(super) fn http_match(from: &HttpRouteMatch) -> Compiled<(PathMatch, Conditions)> {
    let path = match &from.path {
        Some(it) => http_path(it.kind, &it.value)?,
        None => PathMatch::Prefix("".into()),
    };
    let method = from.method.as_deref().map(|method| {
        let parsed = Method::from_bytes(method.as_bytes());
        parsed.map_err(|error| ("method".to_owned(), error.to_string()))
    });
    let conditions = Conditions {
        is_grpc: false,
        method: method.transpose()?,
        headers: headers(&from.headers)?,
        query: query(&from.query_params)?,
    };
    Ok((path, conditions))
}

fn http_path(kind: PathMatchType, value: &str) -> Compiled<PathMatch> {
    let refuse = |message: String| ("path.value".to_owned(), message);
    if kind != PathMatchType::RegularExpression && !value.starts_with('/') {
        return Err(refuse("a path begins with a slash".to_owned()));
    }
    Ok(match kind {
        PathMatchType::Exact => PathMatch::Exact(value.into()),
        PathMatchType::PathPrefix => PathMatch::prefix(value),
        PathMatchType::RegularExpression => {
            let regex = text::expression(value).map_err(|error| refuse(error.to_string()))?;
            PathMatch::Expression {
                regex,
                rank: (length(value), 0),
                scope: literal(value),
            }
        }
    })
}

fn headers(from: &[NameMatch]) -> Compiled<Vec<(HeaderName, TextMatch)>> {
    let mut compiled: Vec<(HeaderName, TextMatch)> = Vec::new();
    for (index, field) in from.iter().enumerate() {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|error| (format!("headers[{index}].name"), error.to_string()))?;
        // Of equal names the first counts.
        if compiled.iter().all(|(earlier, _)| *earlier != name) {
            let value = value(field, "headers", index)?;
            // Hosts are compared in their one spelling.
            let is_host = name == header::HOST;
            let value = if is_host {
                value.in_small_letters()
            } else {
                value
            };
            compiled.push((name, value));
        }
    }
    Ok(compiled)
}

fn query(from: &[NameMatch]) -> Compiled<Vec<(Box<str>, TextMatch)>> {
    let mut compiled: Vec<(Box<str>, TextMatch)> = Vec::new();
    for (index, parameter) in from.iter().enumerate() {
        if compiled
            .iter()
            .all(|(earlier, _)| **earlier != *parameter.name)
        {
            let value = value(parameter, "queryParams", index)?;
            compiled.push((parameter.name.as_str().into(), value));
        }
    }
    Ok(compiled)
}

fn value(from: &NameMatch, list: &str, index: usize) -> Compiled<TextMatch> {
    TextMatch::new(from.kind, &from.value)
        .map_err(|error| (format!("{list}[{index}].value"), error.to_string()))
}

/// What a gRPC match means.
pub(super) fn grpc_match(from: &GrpcRouteMatch) -> Compiled<(PathMatch, Conditions)> {
    let path = match &from.method {
        Some(method) => grpc_path(method)?,
        None => PathMatch::Prefix("".into()),
    };
    let conditions = Conditions {
        is_grpc: true,
        headers: headers(&from.headers)?,
        ..Conditions::default()
    };
    Ok((path, conditions))
}

/// A call's path is `/SERVICE/METHOD` (gRPC over HTTP/2).
fn grpc_path(from: &GrpcMethodMatch) -> Compiled<PathMatch> {
    let refuse = |error: regex::Error| ("method".to_owned(), error.to_string());
    let (service, method) = (from.service.as_deref(), from.method.as_deref());
    let pattern = match (from.kind, service, method) {
        (_, None, None) => return Ok(PathMatch::Prefix("".into())),
        (StringMatchType::Exact, Some(service), Some(method)) => {
            return Ok(PathMatch::Exact(format!("/{service}/{method}").into()));
        }
        (StringMatchType::Exact, Some(service), None) => {
            return Ok(PathMatch::Prefix(format!("/{service}").into()));
        }
        (StringMatchType::Exact, None, Some(method)) => {
            format!("/[^/]+/{}", regex::escape(method))
        }
        (StringMatchType::RegularExpression, ..) => {
            // Alone first, so that neither can reach into the other.
            for part in [service, method].into_iter().flatten() {
                drop(text::expression(part).map_err(refuse)?);
            }
            let part = |part: Option<&str>| part.unwrap_or("[^/]+").to_owned();
            format!("/(?:{})/(?:{})", part(service), part(method))
        }
    };
    Ok(PathMatch::Expression {
        regex: text::expression(&pattern).map_err(refuse)?,
        rank: (service.map_or(0, length), method.map_or(0, length)),
        scope: literal(&pattern),
    })
}

/// Bytes of the whole segments that every path begins with that an expression describes, as far as its beginning is
/// plain text.
fn literal(expression: &str) -> usize {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "/-_~%".contains(it);
    let end = expression.find(|it| !is_plain(it));
    let end = end.unwrap_or(expression.len());
    let Some((plain, rest)) = expression.split_at_checked(end) else {
        return 0;
    };
    // Of several alternatives none is certain; what may be repeated may be left out.
    let plain = match rest.chars().next() {
        _ if rest.contains('|') => "",
        Some('?' | '*' | '{') => plain.get(..end.saturating_sub(1)).unwrap_or(""),
        _ => plain,
    };
    if rest.is_empty() {
        plain.len()
    } else {
        plain.rfind('/').unwrap_or(0)
    }
}

fn length(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

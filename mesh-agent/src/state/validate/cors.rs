//! Rules of the filter `CORS`.

use super::filter::once;
use super::{bound, http, name};
use crate::state::Refusal;
use crate::state::route::Cors;

/// Most entries of a list.
const MAX_ENTRIES: usize = 64;

/// Checks the filter.
pub(super) fn check(field: &str, cors: &Cors) -> Result<(), Refusal> {
    let lists = [
        ("allowOrigins", &cors.allow_origins, MAX_ENTRIES),
        ("allowMethods", &cors.allow_methods, http::METHODS.len()),
        ("allowHeaders", &cors.allow_headers, MAX_ENTRIES),
        ("exposeHeaders", &cors.expose_headers, MAX_ENTRIES),
    ];
    for (name, list, most) in lists {
        let field = format!("{field}.{name}");
        bound::at_most(&field, list, most)?;
        let is_any = |it: &String| it == "*";
        for (index, item) in list.iter().enumerate() {
            let field = format!("{field}[{index}]");
            if is_any(item) {
                if list.len() > 1 {
                    return Err(Refusal::invalid(field, "`*` stands alone"));
                }
                continue;
            }
            match name {
                "allowOrigins" => origin(&field, item)?,
                "allowMethods" => http::method(&field, item)?,
                _ => http::token(&field, item)?,
            }
        }
        once(&field, list.iter().map(String::as_str), "")?;
    }
    if cors.max_age == 0 {
        return Err(Refusal::invalid(
            format!("{field}.maxAge"),
            "at least 1 second",
        ));
    }
    Ok(())
}

/// `SCHEME://HOST[:PORT]`; the first label of the host may be `*`.
fn origin(field: &str, origin: &str) -> Result<(), Refusal> {
    let wrong = || Refusal::invalid(field, "SCHEME://HOST[:PORT], or `*`");
    bound::length(field, origin, 1..=253)?;
    let (scheme, rest) = origin.split_once("://").ok_or_else(wrong)?;
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it));
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let host = host.strip_prefix("*.").unwrap_or(host);
    let is_address = host
        .trim_matches(['[', ']'])
        .parse::<std::net::IpAddr>()
        .is_ok();
    let is_host =
        host == "*" || is_address || name::subdomain(field, &host.to_ascii_lowercase()).is_ok();
    let is_port = port.is_none_or(|it| it.parse::<u16>().is_ok_and(|it| it > 0));
    if is_scheme && is_host && is_port {
        return Ok(());
    }
    Err(wrong())
}

//! What of a request is hashed.

use std::net::IpAddr;

use http::header::{COOKIE, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Uri};

use super::hash;
use crate::state::traffic_policy::balancing::HashOn;

/// What of a request's head can be hashed.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Its path and query; of HTTP/2 also the host that it names.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// What is hashed, ready for use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Value of a header; of several the first. That of `host` is the host that the endpoint is asked for, by whatever
    /// version of HTTP.
    Header(HeaderName),
    /// Value of a cookie.
    Cookie(String),
    /// Value of a query parameter as it stands, without decoding; of several the first.
    Query(String),
    /// Address of the caller.
    Source,
    /// Path without query.
    Path,
}

impl Key {
    /// Reads the setting; none where nothing that can be hashed is named.
    #[must_use]
    pub fn new(on: &HashOn) -> Option<Self> {
        if let Some(name) = &on.header {
            return HeaderName::from_bytes(name.as_bytes())
                .ok()
                .map(Self::Header);
        }
        if let Some(name) = &on.cookie {
            return Some(Self::Cookie(name.clone()));
        }
        if let Some(name) = &on.query {
            return Some(Self::Query(name.clone()));
        }
        if on.source == Some(true) {
            return Some(Self::Source);
        }
        (on.path == Some(true)).then_some(Self::Path)
    }

    /// The hash of a request (`head`; absent for opaque connections) from a caller, if it has what is hashed.
    #[must_use]
    pub fn hash(&self, head: Option<Head<'_>>, source: Option<IpAddr>) -> Option<u64> {
        if *self == Self::Source {
            return source.map(|source| match source {
                IpAddr::V4(v4) => hash::of(&v4.octets()),
                IpAddr::V6(v6) => hash::of(&v6.octets()),
            });
        }
        let head = head?;
        match self {
            Self::Header(name) if *name == HOST => host(head),
            Self::Header(name) => head.headers.get(name).map(HeaderValue::as_bytes),
            Self::Cookie(name) => cookie(head.headers, name),
            Self::Query(name) => query(head.uri.query()?, name).map(str::as_bytes),
            Self::Path => Some(head.uri.path().as_bytes()),
            Self::Source => None,
        }
        .map(hash::of)
    }
}

/// What the authority of HTTP/2 says, or `host` of HTTP/1.1.
fn host(head: Head<'_>) -> Option<&[u8]> {
    let authority = head.uri.authority().map(|it| it.as_str().as_bytes());
    authority.or_else(|| Some(head.headers.get(HOST)?.as_bytes()))
}

/// The value of a cookie (RFC 6265, section 5.4: pairs separated by semicolons); of several the first. HTTP/2 may spread
/// them over several header fields.
#[must_use]
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(COOKIE).iter().find_map(|field| {
        field
            .as_bytes()
            .split(|byte| *byte == b';')
            .find_map(|pair| {
                let pair = pair.trim_ascii();
                let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                Some(
                    value
                        .strip_prefix(b"\"")
                        .map_or(value, |inner| inner.strip_suffix(b"\"").unwrap_or(inner)),
                )
            })
    })
}

fn query<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::request::Parts;
    use serde_json::{Value, json};

    use super::*;

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn key(on: Value) -> Key {
        Key::new(&serde_json::from_value(on).unwrap()).unwrap()
    }

    fn check(on: Value, head: &Parts, expected: Option<&str>) {
        let source = Some("10.0.0.9".parse().unwrap());
        let head = Head {
            uri: &head.uri,
            headers: &head.headers,
        };
        let found = key(on).hash(Some(head), source);
        assert_eq!(found, expected.map(|text| hash::of(text.as_bytes())));
    }

    #[test]
    fn each_part_of_a_request_can_be_hashed() {
        let head = head(
            "/a/b?x=1&user=ann&user=bob&flag",
            &[
                ("x-user", "eve"),
                ("cookie", "a=1; sid=\"42\""),
                ("cookie", "other=7;last=8"),
            ],
        );
        check(json!({"header": "X-User"}), &head, Some("eve"));
        check(json!({"header": "x-none"}), &head, None);
        check(json!({"cookie": "sid"}), &head, Some("42"));
        check(json!({"cookie": "last"}), &head, Some("8"));
        check(json!({"cookie": "si"}), &head, None);
        check(json!({"query": "user"}), &head, Some("ann"));
        check(json!({"query": "flag"}), &head, Some(""));
        check(json!({"query": "use"}), &head, None);
        check(json!({"path": true}), &head, Some("/a/b"));
    }

    #[test]
    fn a_host_is_the_same_by_whatever_version() {
        let on = json!({"header": "Host"});
        let first = head("/a", &[("host", "web")]);
        check(on.clone(), &first, Some("web"));
        check(on.clone(), &head("http://web/a", &[]), Some("web"));
        check(on, &head("/a", &[]), None);
    }

    #[test]
    fn a_source_is_its_address() {
        let source = |text: &str| Some(text.parse().unwrap());
        let key = key(json!({"source": true}));
        assert_eq!(
            key.hash(None, source("10.0.0.9")),
            Some(hash::of(&[10, 0, 0, 9]))
        );
        assert_ne!(
            key.hash(None, source("10.0.0.9")),
            key.hash(None, source("10.0.0.8"))
        );
        assert_eq!(key.hash(None, None), None);
    }

    #[test]
    fn an_opaque_connection_has_nothing_but_its_source() {
        let source = Some("10.0.0.9".parse().unwrap());
        assert_eq!(key(json!({"path": true})).hash(None, source), None);
        assert_eq!(Key::new(&HashOn::default()), None);
    }
}

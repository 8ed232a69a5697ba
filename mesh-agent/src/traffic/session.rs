//! Session persistence (GEP-1619): a cookie or header that names the endpoint, so that a client comes back to it.
//!
//! The value holds a number that stands for the endpoint of the service, when the session began, and when it was used
//! last. It is no secret and needs none: a number counts only if it is that of an endpoint that the service has now, so
//! whoever makes one up reaches nothing that plain balancing would not reach.

use std::fmt;
use std::net::SocketAddr;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue, SET_COOKIE};

use super::balance::{hash, key};
use crate::state::object::ObjectKey;
use crate::state::route::{CookieLifetime, SessionPersistence, SessionType};

/// Name of a cookie or header where none is given; what stands for the owner follows.
const NAME: &str = "mesh-session-";

/// How sessions of one service or rule are kept, ready for use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    carrier: Carrier,
    /// Seconds from its begin; absent: for ever.
    absolute_s: Option<u64>,
    /// Seconds without use; absent: for ever.
    idle_s: Option<u64>,
    /// Whether the client keeps a cookie beyond its own life.
    is_permanent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Carrier {
    Cookie(String),
    Header(HeaderName),
}

/// What a client brings and is given. Times are seconds since 1970, because sessions outlive agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The endpoint, as [`number`] has it.
    pub endpoint: u64,
    /// When the session began.
    pub begun_s: u64,
    /// When it was used last, as far as it matters.
    pub used_s: u64,
}

/// The number that stands for an endpoint of a service.
#[must_use]
pub fn number(service: &ObjectKey, endpoint: &ObjectKey, address: SocketAddr) -> u64 {
    let text = format!(
        "{}/{}/{}/{}/{address}",
        service.namespace, service.name, endpoint.namespace, endpoint.name
    );
    hash::of(text.as_bytes())
}

impl Session {
    /// Reads the setting; `owner` stands for the service or rule that it belongs to. None where the name given cannot be
    /// one of a header.
    #[must_use]
    pub fn new(spec: &SessionPersistence, owner: &str) -> Option<Self> {
        let name = spec
            .session_name
            .clone()
            .unwrap_or_else(|| format!("{NAME}{owner}"));
        let seconds = |length: Option<crate::state::duration::Duration>| {
            length
                .filter(|length| !length.is_zero())
                .map(|length| length.get().as_secs().max(1))
        };
        let lifetime = spec.cookie_config.map(|config| config.lifetime_type);
        Some(Self {
            carrier: match spec.kind {
                SessionType::Cookie => Carrier::Cookie(name),
                SessionType::Header => {
                    Carrier::Header(HeaderName::from_bytes(name.as_bytes()).ok()?)
                }
            },
            absolute_s: seconds(spec.absolute_timeout),
            idle_s: seconds(spec.idle_timeout),
            is_permanent: lifetime == Some(CookieLifetime::Permanent),
        })
    }

    /// The session that a request belongs to, unless it is over.
    #[must_use]
    pub fn read(&self, headers: &HeaderMap, now_s: u64) -> Option<Token> {
        let value = match &self.carrier {
            Carrier::Cookie(name) => key::cookie(headers, name)?,
            Carrier::Header(name) => headers.get(name)?.as_bytes(),
        };
        let token = Token::parse(value)?;
        let is_over = |since_s: u64, limit: Option<u64>| {
            limit.is_some_and(|limit| now_s.saturating_sub(since_s) >= limit)
        };
        let is_over = is_over(token.begun_s, self.absolute_s) || is_over(token.used_s, self.idle_s);
        (!is_over).then_some(token)
    }

    /// What the client is given with the answer of an endpoint, if it must be given anything: `had` is what it brought.
    /// A cookie goes back to where the session holds: to what is at `path` and below.
    #[must_use]
    pub fn answer(
        &self,
        had: Option<Token>,
        endpoint: u64,
        now_s: u64,
        path: &str,
    ) -> Option<(HeaderName, HeaderValue)> {
        let token = match had.filter(|had| had.endpoint == endpoint) {
            Some(had) if self.idle_s.is_none() || had.used_s == now_s => return None,
            Some(had) => Token {
                used_s: now_s,
                ..had
            },
            None => Token {
                endpoint,
                begun_s: now_s,
                used_s: now_s,
            },
        };
        match &self.carrier {
            Carrier::Header(name) => {
                let value = HeaderValue::from_str(&token.to_string()).ok()?;
                Some((name.clone(), value))
            }
            Carrier::Cookie(name) => {
                // Nothing else can be written there (RFC 6265, 4.1.1).
                let is_path = |byte: u8| byte.is_ascii_graphic() && byte != b';';
                let is_sound = path.starts_with('/') && path.bytes().all(is_path);
                let path = if is_sound { path } else { "/" };
                let mut cookie = format!("{name}={token}; Path={path}; HttpOnly; SameSite=Lax");
                if let Some(limit) = self.absolute_s.filter(|_| self.is_permanent) {
                    let left = limit.saturating_sub(now_s.saturating_sub(token.begun_s));
                    cookie.push_str("; Max-Age=");
                    cookie.push_str(&left.to_string());
                }
                Some((SET_COOKIE, HeaderValue::from_str(&cookie).ok()?))
            }
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            endpoint,
            begun_s,
            used_s,
        } = self;
        write!(f, "{endpoint:016x}-{begun_s:x}-{used_s:x}")
    }
}

impl Token {
    fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut numbers = text.split('-').map(|text| {
            let is_hex =
                (1..=16).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_hexdigit());
            is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
        });
        let token = Self {
            endpoint: numbers.next()??,
            begun_s: numbers.next()??,
            used_s: numbers.next()??,
        };
        numbers.next().is_none().then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn session(spec: Value) -> Session {
        Session::new(&serde_json::from_value(spec).unwrap(), "web").unwrap()
    }

    fn head(name: &str, value: &str) -> HeaderMap {
        let request = Request::builder().header(name, value);
        request.body(()).unwrap().into_parts().0.headers
    }

    /// What a client would send back.
    fn back(answer: &(HeaderName, HeaderValue)) -> HeaderMap {
        let (name, value) = (answer.0.as_str(), answer.1.to_str().unwrap());
        match name {
            "set-cookie" => head("cookie", value.split(';').next().unwrap()),
            _ => head(name, value),
        }
    }

    #[test]
    fn a_client_comes_back_with_what_it_was_given() {
        for spec in [
            json!({}),
            json!({"type": "Header", "sessionName": "X-Session"}),
        ] {
            let session = session(spec);
            let answer = session.answer(None, 7, 100, "/").unwrap();
            let token = session.read(&back(&answer), 1_000_000).unwrap();
            assert_eq!((token.endpoint, token.begun_s), (7, 100));
            assert_eq!(session.answer(Some(token), 7, 1_000_000, "/"), None);
            let moved = session.answer(Some(token), 8, 200, "/").unwrap();
            let token = session.read(&back(&moved), 200).unwrap();
            assert_eq!((token.endpoint, token.begun_s), (8, 200));
        }
    }

    #[test]
    fn a_cookie_says_where_it_holds_and_how_long_it_lives() {
        let cookie = |spec, path| {
            let answer = session(spec).answer(None, 0xab, 0x10, path).unwrap();
            answer.1.to_str().unwrap().to_owned()
        };
        for (path, told) in [
            ("/", "/"),
            ("/foo/bar", "/foo/bar"),
            ("", "/"),
            ("/a;b", "/"),
            ("/\u{e9}", "/"),
        ] {
            assert_eq!(
                cookie(json!({"absoluteTimeout": "1h"}), path),
                format!(
                    "mesh-session-web=00000000000000ab-10-10; Path={told}; HttpOnly; SameSite=Lax"
                )
            );
        }
        let permanent = json!({"sessionName": "sid", "absoluteTimeout": "1h",
            "cookieConfig": {"lifetimeType": "Permanent"}});
        assert_eq!(
            cookie(permanent, "/"),
            "sid=00000000000000ab-10-10; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"
        );
    }

    #[test]
    fn a_session_ends_by_age_and_by_disuse() {
        let session = session(json!({"absoluteTimeout": "1h", "idleTimeout": "1m"}));
        let first = back(&session.answer(None, 7, 1000, "/").unwrap());
        let token = session.read(&first, 1059).unwrap();
        assert_eq!(session.read(&first, 1060), None);
        let used = back(&session.answer(Some(token), 7, 1059, "/").unwrap());
        let token = session.read(&used, 1100).unwrap();
        assert_eq!((token.begun_s, token.used_s), (1000, 1059));
        assert_eq!(session.answer(Some(token), 7, 1059, "/"), None);
        let late = Token {
            used_s: 4599,
            ..token
        };
        let late = head("cookie", &format!("mesh-session-web={late}"));
        assert!(session.read(&late, 4599).is_some());
        assert_eq!(session.read(&late, 4600), None);
    }

    proptest! {
        #[test]
        fn what_clients_make_up_is_read_or_ignored(value in "[ -~]{0,60}") {
            let session = session(json!({"sessionName": "s"}));
            if let Some(token) = session.read(&head("cookie", &format!("s={value}")), 5) {
                let again = Token::parse(token.to_string().as_bytes());
                prop_assert_eq!(again, Some(token));
            }
        }
    }
}

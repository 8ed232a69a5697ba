//! Requests from other origins: the answers of the Fetch standard, 3.2 (fetch.spec.whatwg.org).

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use crate::state::route;

/// Who may ask from elsewhere, and for what.
#[derive(Clone, Debug)]
pub struct Cors {
    origins: Vec<OriginPattern>,
    any_origin: bool,
    credentials: bool,
    methods: List,
    headers: List,
    exposed: List,
    max_age: HeaderValue,
}

/// Names that are listed in a field.
#[derive(Clone, Debug)]
enum List {
    /// None is.
    None,
    /// Any may be.
    Any,
    /// These are.
    These(HeaderValue),
}

impl List {
    fn new(names: &[String]) -> Result<Self, String> {
        if names.is_empty() {
            return Ok(Self::None);
        }
        if names.iter().any(|name| name == "*") {
            return Ok(Self::Any);
        }
        let joined = names.join(", ");
        let value = HeaderValue::try_from(&joined);
        value
            .map(Self::These)
            .map_err(|error| format!("{joined}: {error}"))
    }

    /// The field, given what was asked for. With credentials a star means no more than itself.
    fn field(&self, asked: Option<&HeaderValue>, credentials: bool) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::Any if credentials => asked.cloned(),
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::These(these) => Some(these.clone()),
        }
    }
}

/// Origins that may ask.
#[derive(Clone, Debug)]
struct OriginPattern {
    scheme: Box<str>,
    /// A host; after a star only its end.
    host: Box<str>,
    is_wildcard: bool,
    port: Option<u16>,
}

/// `SCHEME://HOST[:PORT]`, in its parts.
fn parts(origin: &str) -> Option<(&str, &str, Option<u16>)> {
    let (scheme, rest) = origin.split_once("://")?;
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (rest, None),
    };
    let known = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    Some((scheme, host, port.or(known)))
}

impl OriginPattern {
    fn new(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (scheme, host, port) =
            parts(&lower).ok_or_else(|| format!("{text} is no origin (SCHEME://HOST[:PORT])"))?;
        let (host, is_wildcard) = match host.strip_prefix('*') {
            Some(end) => (end, true),
            None => (host, false),
        };
        if host.contains(['*', '/']) || (host.is_empty() && !is_wildcard) {
            return Err(format!("{text} is no origin (SCHEME://HOST[:PORT])"));
        }
        Ok(Self {
            scheme: scheme.into(),
            host: host.into(),
            is_wildcard,
            port,
        })
    }

    fn admits(&self, (scheme, host, port): (&str, &str, Option<u16>)) -> bool {
        let is_host = if self.is_wildcard {
            host.len() > self.host.len() && host.ends_with(&*self.host)
        } else {
            *host == *self.host
        };
        is_host && *scheme == *self.scheme && port == self.port
    }
}

impl Cors {
    pub(super) fn new(from: &route::Cors) -> Result<Self, String> {
        let named = from.allow_origins.iter().filter(|origin| *origin != "*");
        Ok(Self {
            origins: named
                .map(|origin| OriginPattern::new(origin))
                .collect::<Result<_, _>>()?,
            any_origin: from.allow_origins.iter().any(|origin| origin == "*"),
            credentials: from.allow_credentials == Some(true),
            methods: List::new(&from.allow_methods)?,
            headers: List::new(&from.allow_headers)?,
            exposed: List::new(&from.expose_headers)?,
            max_age: HeaderValue::from(from.max_age),
        })
    }

    /// The answer to a request that only asks whether another may be sent; `None` for all other requests. Its body is
    /// empty.
    #[must_use]
    pub fn preflight(&self, method: &Method, asked: &HeaderMap) -> Option<(StatusCode, HeaderMap)> {
        let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = asked.get(header::ORIGIN)?;
        if *method != Method::OPTIONS {
            return None;
        }
        let mut headers = HeaderMap::new();
        if !self.mark(&mut headers, Some(origin)) {
            return Some((StatusCode::FORBIDDEN, headers));
        }
        let listed = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        let fields = [
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                self.methods.field(Some(wanted), self.credentials),
            ),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                self.headers.field(listed, self.credentials),
            ),
            (header::ACCESS_CONTROL_MAX_AGE, Some(self.max_age.clone())),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        Some((StatusCode::OK, headers))
    }

    /// Marks the response to a request from `origin`. What the endpoint says of origins does not count.
    pub fn answer(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            headers.remove(name);
        }
        self.mark(headers, origin);
    }

    /// Puts on what every answer has; tells whether the origin may ask.
    fn mark(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) -> bool {
        let is_open = self.any_origin && !self.credentials;
        if !is_open {
            // The answer differs from origin to origin, also where it says no.
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = origin.filter(|origin| self.admits(origin)) else {
            return false;
        };
        let origin = if is_open {
            HeaderValue::from_static("*")
        } else {
            origin.clone()
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        if let Some(exposed) = self.exposed.field(None, self.credentials) {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        true
    }

    fn admits(&self, origin: &HeaderValue) -> bool {
        if self.any_origin {
            return true;
        }
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        let origin = origin.to_ascii_lowercase();
        parts(&origin).is_some_and(|parts| self.origins.iter().any(|it| it.admits(parts)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cors(spec: Value) -> Cors {
        Cors::new(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn preflight(cors: &Cors, origin: &str) -> (StatusCode, HeaderMap) {
        let mut asked = HeaderMap::new();
        asked.insert("origin", HeaderValue::from_str(origin).unwrap());
        asked.insert(
            "access-control-request-method",
            HeaderValue::from_static("PUT"),
        );
        asked.insert(
            "access-control-request-headers",
            HeaderValue::from_static("x-a"),
        );
        cors.preflight(&Method::OPTIONS, &asked).unwrap()
    }

    #[test]
    fn origins_are_admitted_by_name_or_below_a_star() {
        let cors = cors(
            json!({"allowOrigins": ["https://www.foo.com", "https://*.bar.com", "http://a:81"]}),
        );
        for (origin, is_admitted) in [
            ("https://www.foo.com", true),
            ("https://www.foo.com:443", true),
            ("https://www.foo.com:444", false),
            ("HTTPS://WWW.FOO.COM", true),
            ("http://www.foo.com", false),
            ("https://www.bar.com", true),
            ("https://x.www.bar.com", true),
            ("https://bar.com", false),
            ("https://foobar.com", false),
            ("http://a:81", true),
            ("http://a", false),
            ("null", false),
        ] {
            let (status, headers) = preflight(&cors, origin);
            assert_eq!(status.is_success(), is_admitted, "{origin}");
            let allowed = headers.get("access-control-allow-origin");
            assert_eq!(
                allowed.is_some_and(|it| it == origin),
                is_admitted,
                "{origin}"
            );
            assert_eq!(headers["vary"], "origin");
        }
    }

    #[test]
    fn a_preflight_says_what_is_allowed() {
        let named = cors(
            json!({"allowOrigins": ["*"], "allowCredentials": true, "maxAge": 9,
            "allowMethods": ["GET", "PUT"], "allowHeaders": ["*"], "exposeHeaders": ["x-b"]}),
        );
        let (status, headers) = preflight(&named, "http://a");
        assert_eq!(status, 200);
        for (name, value) in [
            ("access-control-allow-origin", "http://a"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-expose-headers", "x-b"),
            ("access-control-max-age", "9"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        let open = cors(json!({"allowOrigins": ["*"], "allowMethods": ["*"]}));
        let (_, headers) = preflight(&open, "http://a");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["access-control-allow-methods"], "*");
        assert!(!headers.contains_key("access-control-allow-credentials"));
        assert!(!headers.contains_key("vary"));
    }

    #[test]
    fn what_the_endpoint_says_of_origins_does_not_count() {
        let cors = cors(json!({"allowOrigins": ["http://a"]}));
        let mut headers = HeaderMap::new();
        headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
        cors.answer(&mut headers, Some(&HeaderValue::from_static("http://b")));
        assert!(!headers.contains_key("access-control-allow-origin"));
        cors.answer(&mut headers, Some(&HeaderValue::from_static("http://a")));
        assert_eq!(headers["access-control-allow-origin"], "http://a");
    }

    #[test]
    fn other_requests_are_no_preflights() {
        let cors = cors(json!({"allowOrigins": ["*"]}));
        assert!(
            cors.preflight(&Method::OPTIONS, &HeaderMap::new())
                .is_none()
        );
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for origin in [
            "foo.com",
            "https://",
            "https://a*b",
            "https://a/b",
            "https://a:x",
        ] {
            let spec = json!({"allowOrigins": [origin]});
            assert!(
                Cors::new(&serde_json::from_value(spec).unwrap()).is_err(),
                "{origin}"
            );
        }
    }
}

//! Sends clients elsewhere.

use http::StatusCode;
use http::uri::Authority;

use super::rewrite::NewPath;
use crate::state::route::RequestRedirect;

/// An answer that names another place. What is absent stays as it was asked.
#[derive(Clone, Debug)]
pub struct Redirect {
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    path: Option<NewPath>,
    port: Option<u16>,
    /// The status of the answer.
    pub status: StatusCode,
}

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The host, without a port.
    pub host: &'a str,
    /// The port that was dialled.
    pub port: u16,
    /// The path.
    pub path: &'a str,
    /// Bytes of the path that a prefix has matched.
    pub prefix: Option<usize>,
    /// The query.
    pub query: Option<&'a str>,
}

impl Redirect {
    pub(super) fn new(from: &RequestRedirect) -> Result<Self, String> {
        let status = from.status_code.unwrap_or(302);
        let status = match status {
            301 | 302 | 303 | 307 | 308 => StatusCode::from_u16(status),
            _ => return Err(format!("{status} is no status of a redirect")),
        };
        if let Some(scheme) = from.scheme.as_deref()
            && well_known(scheme).is_none()
        {
            return Err(format!("the scheme {scheme} is not http or https"));
        }
        if let Some(host) = from.hostname.as_deref()
            && Authority::try_from(host).is_err()
        {
            return Err(format!("{host} is no host"));
        }
        Ok(Self {
            scheme: from.scheme.as_deref().map(Into::into),
            host: from.hostname.as_deref().map(Into::into),
            path: from.path.as_ref().map(NewPath::new).transpose()?,
            port: from.port,
            status: status.map_err(|error| error.to_string())?,
        })
    }

    /// Where the client is sent. Requests come by plain HTTP.
    #[must_use]
    pub fn location(&self, asked: &Asked<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or("http");
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            // Another scheme is not spoken on the port that was dialled.
            (None, Some(scheme)) => well_known(scheme),
            (None, None) => Some(asked.port),
        };
        let port = port.filter(|port| Some(*port) != well_known(scheme));
        let host = self.host.as_deref().unwrap_or(asked.host);
        let path = match &self.path {
            Some(path) => path.apply(asked.path, asked.prefix, asked.query),
            None => match asked.query {
                Some(query) => format!("{}?{query}", asked.path),
                None => asked.path.to_owned(),
            },
        };
        match port {
            Some(port) => format!("{scheme}://{host}:{port}{path}"),
            None => format!("{scheme}://{host}{path}"),
        }
    }
}

fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn location(spec: Value, port: u16) -> String {
        let spec = serde_json::from_value(spec).unwrap();
        let redirect = Redirect::new(&spec).unwrap();
        redirect.location(&Asked {
            host: "web",
            port,
            path: "/old/a",
            prefix: Some(4),
            query: Some("q"),
        })
    }

    #[test]
    fn ports_follow_the_scheme() {
        // As the conformance tests of the Gateway API expect it.
        for (spec, port, expected) in [
            (json!({}), 80, "http://web/old/a?q"),
            (json!({}), 8080, "http://web:8080/old/a?q"),
            (json!({"port": 80}), 8080, "http://web/old/a?q"),
            (json!({"port": 8080}), 80, "http://web:8080/old/a?q"),
            (json!({"scheme": "https"}), 8080, "https://web/old/a?q"),
            (
                json!({"scheme": "https", "port": 443}),
                80,
                "https://web/old/a?q",
            ),
            (
                json!({"scheme": "https", "port": 8443}),
                80,
                "https://web:8443/old/a?q",
            ),
            (json!({"scheme": "http"}), 8080, "http://web/old/a?q"),
        ] {
            assert_eq!(location(spec.clone(), port), expected, "{spec} on {port}");
        }
    }

    #[test]
    fn host_and_path_are_replaced_and_the_query_stays() {
        let path = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"});
        let spec = json!({"hostname": "other", "path": path});
        assert_eq!(location(spec, 80), "http://other/new/a?q");
    }

    #[test]
    fn what_is_no_redirect_is_refused() {
        for spec in [
            json!({"statusCode": 200}),
            json!({"scheme": "ftp"}),
            json!({"hostname": "a b"}),
        ] {
            let spec = serde_json::from_value(spec).unwrap();
            assert!(Redirect::new(&spec).is_err());
        }
    }
}

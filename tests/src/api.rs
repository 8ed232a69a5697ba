//! Client of the agent's local API, from inside the node.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::Value;

use crate::http_client::exchange;
use crate::netns::NetNs;
use crate::protocol::HttpAnswer;

/// Where the agent's API listens.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15_000);

/// Where the agent's metrics are.
pub const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15_020);

/// What an exchange with the agent may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// The API of one node's agent.
#[derive(Clone, Copy, Debug)]
pub struct Api<'a> {
    netns: &'a NetNs,
}

impl<'a> Api<'a> {
    /// The API of the agent in a namespace.
    #[must_use]
    pub const fn new(netns: &'a NetNs) -> Self {
        Self { netns }
    }

    /// Sends a request, wherever it listens.
    pub fn send(
        &self,
        address: SocketAddr,
        request: Request<Full<Bytes>>,
    ) -> io::Result<HttpAnswer> {
        let stream = self
            .netns
            .run(|| TcpStream::connect_timeout(&address, DEADLINE))?;
        exchange(stream, request, DEADLINE)
    }

    /// A request with a method, a path and a JSON body (or none).
    pub fn try_call(&self, method: &str, path: &str, body: &Value) -> io::Result<HttpAnswer> {
        let bytes = if body.is_null() {
            Bytes::new()
        } else {
            Bytes::from(body.to_string())
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", ADDRESS.to_string())
            .header("content-type", "application/json")
            .body(Full::new(bytes))
            .map_err(io::Error::other)?;
        self.send(ADDRESS, request)
    }

    /// The same, and the agent must answer.
    #[must_use]
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: &Value) -> HttpAnswer {
        self.try_call(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The JSON at a path, which must be there.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.call("GET", path, &Value::Null);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
        answer.json()
    }

    /// Puts an object at its place.
    #[must_use]
    #[track_caller]
    pub fn put(&self, object: &Value) -> HttpAnswer {
        self.call("PUT", &path_of(object), object)
    }

    /// Puts an object, which must be accepted.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        let answer = self.put(object);
        assert!(
            matches!(answer.status, 200 | 201),
            "PUT {}: {} {}",
            path_of(object),
            answer.status,
            answer.body
        );
    }

    /// Deletes an object, which must be there.
    #[track_caller]
    pub fn delete(&self, object: &Value) {
        let path = path_of(object);
        let answer = self.call("DELETE", &path, &Value::Null);
        assert_eq!(answer.status, 200, "DELETE {path}: {}", answer.body);
    }

    /// What the agent would do with a connection.
    #[must_use]
    #[track_caller]
    pub fn explain(&self, source: &str, destination: &str) -> Value {
        self.get(&format!(
            "/api/v1/explain?source={source}&destination={destination}"
        ))
    }

    /// What the agent says about a datagram.
    #[must_use]
    #[track_caller]
    pub fn explain_datagram(&self, source: &str, destination: &str) -> Value {
        self.get(&format!(
            "/api/v1/explain?source={source}&destination={destination}&transport=udp"
        ))
    }

    /// Coverage of a workload.
    #[must_use]
    #[track_caller]
    pub fn coverage(&self, namespace: &str, name: &str) -> Value {
        let list = self.get("/api/v1/coverage");
        let items = list["items"].as_array().expect("items");
        let is_wanted = |item: &&Value| item["namespace"] == namespace && item["name"] == name;
        let found = items.iter().find(is_wanted);
        found.map_or_else(|| panic!("no {namespace}/{name} in {list}"), Value::clone)
    }

    /// Watches a list; each event is one JSON value.
    #[must_use]
    #[track_caller]
    pub fn watch(&self, path: &str) -> Watch {
        let connect = || TcpStream::connect_timeout(&ADDRESS, DEADLINE);
        let mut stream = self.netns.run(connect).expect("the API");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        write!(
            stream,
            "GET {path}?watch=true HTTP/1.1\r\nhost: {ADDRESS}\r\n\r\n"
        )
        .expect("sent");
        Watch {
            lines: BufReader::new(stream),
        }
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
pub struct Watch {
    lines: BufReader<TcpStream>,
}

impl Watch {
    /// The next event.
    #[track_caller]
    pub fn next_event(&mut self) -> Value {
        loop {
            let mut line = String::new();
            let length = self.lines.read_line(&mut line).expect("an event in time");
            assert!(length > 0, "the stream of events ended");
            if let Some(data) = line.strip_prefix("data:") {
                return serde_json::from_str(data)
                    .unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
    }
}

/// Where the API keeps an object.
#[must_use]
#[track_caller]
pub fn path_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plural = match text(&object["kind"]).as_str() {
        "AuthorizationPolicy" => "authorizationpolicies".to_owned(),
        "TrafficPolicy" => "trafficpolicies".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let namespace = text(&object["metadata"]["namespace"]);
    let name = text(&object["metadata"]["name"]);
    format!("/api/v1/namespaces/{namespace}/{plural}/{name}")
}

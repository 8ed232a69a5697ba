//! One line per request or opaque connection, built only where somebody reads it.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use http::request::Parts;
use mesh_common::verdict::Verdict;
use serde::Serialize;

use super::caller::Caller;
use super::http::headers::REQUEST_ID;
use super::view::{Endpoint, ServicePort, Workload};
use crate::net::clock;
use crate::state::object::ObjectKey;
use crate::telemetry::access_log::LineText;

/// Bytes of each text of a client's that a line tells: the first ones. A head may have 64 KiB, and many lines may wait.
const KEPT: usize = 1 << 10;

/// What a line tells of a request's head. Kept, because the head itself travels on.
#[derive(Debug, Default)]
pub(crate) struct Head {
    method: String,
    path: String,
    authority: Option<String>,
    request_id: Option<String>,
    user_agent: Option<String>,
}

impl Head {
    /// Notes what matters: as the head has come, and again after the proxy has added its own.
    pub(crate) fn note(&mut self, parts: &Parts, authority: Option<&str>) {
        let field = |name| parts.headers.get(name).map(HeaderValue::as_bytes);
        let (method, path) = (cut(parts.method.as_str()), cut(parts.uri.path()));
        if self.method != method {
            method.clone_into(&mut self.method);
        }
        if self.path != path {
            path.clone_into(&mut self.path);
        }
        keep(&mut self.authority, authority.map(str::as_bytes));
        keep(&mut self.request_id, field(REQUEST_ID));
        keep(&mut self.user_agent, field(USER_AGENT));
    }
}

/// Makes a text of what it is not already.
fn keep(known: &mut Option<String>, text: Option<&[u8]>) {
    if known.as_deref().map(str::as_bytes) == text {
        return;
    }
    *known = text.map(|text| {
        // A character that begins within the limit has at most three bytes beyond it.
        let text = text.get(..KEPT + 3).unwrap_or(text);
        cut(&String::from_utf8_lossy(text)).to_owned()
    });
}

/// The part of a text that is kept: whole characters.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(KEPT)).unwrap_or(text)
}

/// Everything that a line is made of.
pub(crate) struct Line<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) port: Option<&'a ServicePort>,
    pub(crate) endpoint: Option<&'a Endpoint>,
    pub(crate) protocol: &'a str,
    pub(crate) head: Option<&'a Head>,
    /// The rule of a route that it fell under.
    pub(crate) route: Option<&'a str>,
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u8>,
    /// By the caller.
    pub(crate) bytes_sent: u64,
    /// By the caller.
    pub(crate) bytes_received: u64,
    pub(crate) duration: Duration,
    pub(crate) attempts: u32,
    pub(crate) flags: &'a str,
    pub(crate) reason: Option<&'a str>,
}

// A line begins with `Start` and ends with `Exchange`. What the kernel's lines tell too has the names it has there, which
// are those of ztunnel.

#[derive(Serialize)]
struct Start<'a> {
    time: String,
    event: &'a str,
}

/// Who spoke, and to what: known for a connection.
#[derive(Serialize)]
struct Source<'a> {
    direction: &'a str,
    verdict: &'a str,
    #[serde(rename = "src.addr", skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(rename = "src.workload")]
    workload: &'a str,
    #[serde(rename = "src.namespace")]
    namespace: &'a str,
    #[serde(rename = "src.identity")]
    identity: String,
    original: String,
}

/// Who was spoken to: known for an endpoint.
#[derive(Serialize)]
struct Destination<'a> {
    #[serde(rename = "dst.addr")]
    address: String,
    #[serde(rename = "dst.workload", skip_serializing_if = "Option::is_none")]
    workload: Option<&'a str>,
    #[serde(rename = "dst.namespace", skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(rename = "dst.identity", skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(rename = "dst.endpoint", skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
}

/// What passed between them. Only requests have a head, and with it a status.
#[derive(Serialize)]
struct Exchange<'a> {
    #[serde(rename = "dst.service", skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    bytes_sent: u64,
    bytes_recv: u64,
    duration: String,
    attempts: u32,
    flags: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Line<'_> {
    /// The line, without its end.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut line = LineText::new();
        line.add(&self.start());
        line.add_known(&self.caller.logged, || source(self.caller));
        if let Some(endpoint) = self.endpoint {
            let members = || destination(endpoint.address, self.endpoint);
            line.add_known(&endpoint.logged, members);
        } else {
            // What was dialled stands for it.
            line.add(&destination(self.caller.original, None));
        }
        line.add(&self.exchange());
        line.into_json()
    }

    fn start(&self) -> Start<'_> {
        Start {
            time: clock::timestamp(),
            event: if self.head.is_some() {
                "request"
            } else {
                "closed"
            },
        }
    }

    fn exchange(&self) -> Exchange<'_> {
        Exchange {
            service: self.port.map(|port| path(&port.service)),
            protocol: self.protocol,
            method: self.head.map(|head| &*head.method),
            path: self.head.map(|head| &*head.path),
            authority: self.head.and_then(|head| head.authority.as_deref()),
            request_id: self.head.and_then(|head| head.request_id.as_deref()),
            user_agent: self.head.and_then(|head| head.user_agent.as_deref()),
            status: self.status,
            grpc_status: self.grpc_status,
            route: self.route,
            bytes_sent: self.bytes_sent,
            bytes_recv: self.bytes_received,
            duration: [itoa::Buffer::new().format(self.duration.as_millis()), "ms"].concat(),
            attempts: self.attempts,
            flags: self.flags,
            reason: self.reason.unwrap_or("ok"),
            error: self.reason,
        }
    }
}

fn source(caller: &Caller) -> Source<'_> {
    let workload = &*caller.workload;
    let address = caller.address();
    Source {
        direction: "outbound",
        verdict: Verdict::Proxy.as_str(),
        address: address.map(|it| text(SocketAddr::new(it, caller.source_port))),
        workload: &workload.key.name,
        namespace: &workload.key.namespace,
        identity: identity(workload),
        original: text(caller.original),
    }
}

fn destination(address: SocketAddr, endpoint: Option<&Endpoint>) -> Destination<'_> {
    let workload = endpoint.and_then(|endpoint| endpoint.workload.as_deref());
    Destination {
        address: text(address),
        workload: workload.map(|workload| workload.key.name.as_str()),
        namespace: workload.map(|workload| workload.key.namespace.as_str()),
        identity: workload.map(identity),
        endpoint: endpoint.map(|endpoint| path(&endpoint.key)),
    }
}

fn identity(workload: &Workload) -> String {
    [&workload.key.namespace, "/", &*workload.service_account].concat()
}

/// `NAMESPACE/NAME`.
fn path(key: &ObjectKey) -> String {
    [&key.namespace, "/", &key.name].concat()
}

/// An address of IPv4 as the formatter would write it, at a sixth of what that costs.
fn text(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else {
        return address.to_string();
    };
    let [a, b, c, d] = address.ip().octets();
    let mut buffers = [itoa::Buffer::new(); 5];
    let [first, second, third, fourth, last] = &mut buffers;
    let (a, b) = (first.format(a), second.format(b));
    let (c, d) = (third.format(c), fourth.format(d));
    [a, ".", b, ".", c, ".", d, ":", last.format(address.port())].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everywhere() {
        for address in ["0.0.0.0:0", "255.10.1.99:65535", "[2001:db8::1]:80"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(text(address), address.to_string());
        }
    }

    fn head(build: fn(http::request::Builder) -> http::request::Builder) -> Parts {
        let request = build(http::Request::builder()).body(());
        request.expect("it is right").into_parts().0
    }

    #[test]
    fn of_long_texts_the_beginning_is_kept() {
        let mut noted = Head::default();
        let long = head(|it| {
            let agent = HeaderValue::from_bytes(&vec![0xe9; 60_000]);
            let id = HeaderValue::from_bytes("\u{20ac}".repeat(20_000).as_bytes());
            it.uri(format!("/{}", "p".repeat(20_000)))
                .method("M".repeat(5_000).as_str())
                .header(USER_AGENT, agent.expect("it may be sent"))
                .header(REQUEST_ID, id.expect("it may be sent"))
        });
        noted.note(&long, Some(&"a".repeat(5_000)));
        let kept = |text: &Option<String>| text.as_deref().unwrap_or_default().len();
        assert_eq!((noted.method.len(), noted.path.len()), (KEPT, KEPT));
        assert_eq!(kept(&noted.authority), KEPT);
        // Three bytes each: a sign for what is no character, and one that is.
        assert_eq!(kept(&noted.user_agent), KEPT / 3 * 3);
        let id = noted.request_id.as_deref().expect("it is there");
        assert!(id.len() == KEPT / 3 * 3 && id.chars().all(|it| it == '\u{20ac}'));
    }

    #[test]
    fn a_head_is_noted_as_it_was_last() {
        let mut noted = Head::default();
        let came = head(|it| it.method("PUT").uri("/a").header("user-agent", "x"));
        noted.note(&came, None);
        let goes = head(|it| it.method("PUT").uri("/b").header("x-request-id", "1"));
        noted.note(&goes, Some("web"));
        assert_eq!((&*noted.method, &*noted.path), ("PUT", "/b"));
        let texts = [&noted.authority, &noted.request_id, &noted.user_agent];
        assert_eq!(texts.map(Option::as_deref), [Some("web"), Some("1"), None]);
    }
}

//! One line per request or opaque connection, built only where somebody reads it.

use std::net::SocketAddr;
use std::time::Duration;

use http::request::Parts;
use mesh_common::verdict::Verdict;
use serde::Serialize;

use super::caller::Caller;
use super::view::{Endpoint, ServicePort, Workload};
use crate::net::clock;

/// What a line tells of a request's head. Kept, because the head itself travels on.
#[derive(Debug)]
pub(crate) struct Head {
    method: String,
    path: String,
    authority: Option<String>,
    request_id: Option<String>,
    user_agent: Option<String>,
}

impl Head {
    /// Notes what matters, after the proxy has added its own.
    pub(crate) fn new(parts: &Parts, authority: Option<&str>) -> Self {
        let header = |name| {
            let value = parts.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Self {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            authority: authority.map(str::to_owned),
            request_id: header("x-request-id"),
            user_agent: header("user-agent"),
        }
    }
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

/// The line as it is written. What the kernel's lines tell too has the names it has there, which are those of ztunnel.
#[derive(Serialize)]
struct Fields<'a> {
    time: String,
    event: &'a str,
    #[serde(flatten)]
    ends: Ends<'a>,
    #[serde(flatten)]
    request: Option<Exchange<'a>>,
    direction: &'a str,
    verdict: &'a str,
    protocol: &'a str,
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

/// Who spoke with whom.
#[derive(Serialize)]
struct Ends<'a> {
    #[serde(rename = "src.addr", skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(rename = "src.workload")]
    source_workload: &'a str,
    #[serde(rename = "src.namespace")]
    source_namespace: &'a str,
    #[serde(rename = "src.identity")]
    source_identity: String,
    #[serde(rename = "dst.addr")]
    destination: String,
    #[serde(rename = "dst.workload", skip_serializing_if = "Option::is_none")]
    destination_workload: Option<&'a str>,
    #[serde(rename = "dst.namespace", skip_serializing_if = "Option::is_none")]
    destination_namespace: Option<&'a str>,
    #[serde(rename = "dst.identity", skip_serializing_if = "Option::is_none")]
    destination_identity: Option<String>,
    #[serde(rename = "dst.service", skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(rename = "dst.endpoint", skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    original: String,
}

/// What only a request has.
#[derive(Serialize)]
struct Exchange<'a> {
    method: &'a str,
    path: &'a str,
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
}

impl Line<'_> {
    /// The line, without its end.
    pub(crate) fn to_json(&self) -> String {
        let request = self.request();
        let fields = Fields {
            time: clock::timestamp(),
            event: if request.is_some() {
                "request"
            } else {
                "closed"
            },
            ends: self.ends(),
            request,
            direction: "outbound",
            verdict: Verdict::Proxy.as_str(),
            protocol: self.protocol,
            route: self.route,
            bytes_sent: self.bytes_sent,
            bytes_recv: self.bytes_received,
            duration: format!("{}ms", self.duration.as_millis()),
            attempts: self.attempts,
            flags: self.flags,
            reason: self.reason.unwrap_or("ok"),
            error: self.reason,
        };
        // Strings and numbers: there is nothing that could fail.
        serde_json::to_string(&fields).unwrap_or_default()
    }

    fn ends(&self) -> Ends<'_> {
        let source = &*self.caller.workload;
        let original = self.caller.original;
        let workload = self
            .endpoint
            .and_then(|endpoint| endpoint.workload.as_deref());
        Ends {
            source: self
                .caller
                .address()
                .map(|address| SocketAddr::new(address, self.caller.source_port).to_string()),
            source_workload: &source.key.name,
            source_namespace: &source.key.namespace,
            source_identity: identity(source),
            destination: self
                .endpoint
                .map_or(original, |endpoint| endpoint.address)
                .to_string(),
            destination_workload: workload.map(|workload| workload.key.name.as_str()),
            destination_namespace: workload.map(|workload| workload.key.namespace.as_str()),
            destination_identity: workload.map(identity),
            service: self.port.map(|port| port.service.to_string()),
            endpoint: self.endpoint.map(|endpoint| endpoint.key.to_string()),
            original: original.to_string(),
        }
    }

    fn request(&self) -> Option<Exchange<'_>> {
        let head = self.head?;
        Some(Exchange {
            method: &head.method,
            path: &head.path,
            authority: head.authority.as_deref(),
            request_id: head.request_id.as_deref(),
            user_agent: head.user_agent.as_deref(),
            status: self.status,
            grpc_status: self.grpc_status,
        })
    }
}

fn identity(workload: &Workload) -> String {
    format!("{}/{}", workload.key.namespace, workload.service_account)
}

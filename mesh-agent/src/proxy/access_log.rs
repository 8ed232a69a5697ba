//! One line per request or opaque connection, built only where somebody reads it.

use std::time::Duration;

use http::request::Parts;
use serde::Serialize;

use super::caller::Caller;
use super::view::{Endpoint, ServicePort};
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
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u8>,
    /// From the caller.
    pub(crate) bytes_received: u64,
    /// To the caller.
    pub(crate) bytes_sent: u64,
    pub(crate) duration: Duration,
    pub(crate) attempts: u32,
    pub(crate) flags: &'a str,
    pub(crate) reason: Option<&'a str>,
}

/// The line as it is written. The names of fields are those of ztunnel, in our spelling.
#[derive(Serialize)]
struct Fields<'a> {
    time: String,
    direction: &'a str,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_address: Option<String>,
    src_workload: &'a str,
    src_namespace: &'a str,
    src_service_account: &'a str,
    dst_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_address: Option<String>,
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
    bytes_received: u64,
    bytes_sent: u64,
    duration_ms: f64,
    attempts: u32,
    flags: &'a str,
    reason: &'a str,
}

impl Line<'_> {
    /// The line, without its end.
    pub(crate) fn to_json(&self) -> String {
        let workload = &self.caller.workload;
        let head = self.head;
        let fields = Fields {
            time: clock::timestamp(),
            direction: "outbound",
            protocol: self.protocol,
            src_address: self.caller.address().map(|address| address.to_string()),
            src_workload: &workload.key.name,
            src_namespace: &workload.key.namespace,
            src_service_account: &workload.service_account,
            dst_address: self.caller.original.to_string(),
            dst_service: self.port.map(|port| port.host.as_str()),
            endpoint: self.endpoint.map(|endpoint| endpoint.key.to_string()),
            endpoint_address: self.endpoint.map(|endpoint| endpoint.address.to_string()),
            method: head.map(|head| head.method.as_str()),
            path: head.map(|head| head.path.as_str()),
            authority: head.and_then(|head| head.authority.as_deref()),
            request_id: head.and_then(|head| head.request_id.as_deref()),
            user_agent: head.and_then(|head| head.user_agent.as_deref()),
            status: self.status,
            grpc_status: self.grpc_status,
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
            duration_ms: self.duration.as_secs_f64() * 1000.0,
            attempts: self.attempts,
            flags: self.flags,
            reason: self.reason.unwrap_or("ok"),
        };
        // Strings and numbers: there is nothing that could fail.
        serde_json::to_string(&fields).unwrap_or_default()
    }
}

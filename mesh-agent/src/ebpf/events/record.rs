//! One event of the kernel, in the words of the objects; and as a line of the access log.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_common::conn::Conn;
use mesh_common::event::{Event, Kind};
use mesh_common::verdict::{Reason, Verdict};
use serde_json::Value;

use crate::ebpf::connections;
use crate::ebpf::numbers::Numbers;
use crate::state::object::ObjectKey;
use crate::state::report::{Connection, Party};

/// What happened to one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub kind: Kind,
    /// The verdict, if there was one.
    pub verdict: Option<Verdict>,
    /// Why.
    pub reason: Reason,
    /// The caller.
    pub source: Peer,
    /// What was dialled.
    pub original: SocketAddr,
    /// Where the connection went.
    pub destination: Peer,
    /// The service that was dialled.
    pub service: Option<ObjectKey>,
    /// Process that called connect.
    pub pid: u32,
    /// Bytes the caller sent and the peer acknowledged, redirected bytes included.
    pub bytes_sent: u64,
    /// Bytes the caller received, redirected bytes included.
    pub bytes_received: u64,
    /// From connect to close.
    pub duration: Duration,
    /// Smoothed round trip.
    pub rtt_micros: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Whether its sockets might be paired.
    pub accelerated: bool,
    /// Numbers of the workload and the service, for what is not named any more.
    numbers: (u32, u32),
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address; port 0 where the kernel had not chosen one yet.
    pub address: SocketAddr,
    /// The workload that has it.
    pub workload: Option<ObjectKey>,
    /// Its service account.
    pub service_account: Option<String>,
}

/// Shape of a line of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `name=value` pairs.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

impl Record {
    /// `event` in words; `None` for a kind that this version does not know.
    #[must_use]
    pub fn new(event: &Event, numbers: &Numbers) -> Option<Self> {
        let kind = kind(event.kind)?;
        let verdict = Verdict::from_number(event.verdict);
        let original = SocketAddr::from(event.original);
        let destination =
            connections::destination(verdict, original, SocketAddr::from(event.destination));
        let lasted = event.time_ns.saturating_sub(event.started_ns);
        Some(Self {
            kind,
            verdict,
            reason: Reason::from_number(event.reason.into()).unwrap_or_default(),
            source: caller(event, original, numbers),
            original,
            destination: peer(
                destination,
                numbers.workload_at(destination.ip()).cloned(),
                numbers,
            ),
            // Policy refuses before the kernel looks for a service.
            service: numbers
                .service(event.service)
                .or_else(|| numbers.service_at(original.ip()))
                .cloned(),
            pid: event.pid,
            bytes_sent: event.bytes_sent,
            bytes_received: event.bytes_received,
            duration: Duration::from_nanos(if event.started_ns == 0 { 0 } else { lasted }),
            rtt_micros: event.rtt_micros,
            retransmits: event.retransmits,
            accelerated: event.flags & Conn::ACCELERATED != 0,
            numbers: (event.workload, event.service),
        })
    }

    /// Number of the caller's workload, which outlives its name.
    #[must_use]
    pub const fn workload_number(&self) -> u32 {
        self.numbers.0
    }

    /// Whether it belongs in the access log. Connections that the proxy carried are logged by the proxy.
    #[must_use]
    pub const fn is_logged(&self) -> bool {
        match self.kind {
            Kind::Closed => matches!(self.verdict, Some(Verdict::Direct)),
            Kind::Denied | Kind::AuditDenied | Kind::DeniedInbound | Kind::Bypassed => true,
        }
    }

    /// The line of the access log, without its end. `time` is when it is written.
    #[must_use]
    pub fn line(&self, format: Format, time: &str) -> String {
        let fields = self.fields(time).into_iter();
        match format {
            Format::Json => {
                let pairs: Vec<_> = fields
                    .map(|(name, value)| format!("\"{name}\":{value}"))
                    .collect();
                format!("{{{}}}", pairs.join(","))
            }
            Format::Text => {
                let pairs: Vec<_> = fields
                    .map(|(name, value)| match value.as_str() {
                        Some(text) if is_plain(text) => format!("{name}={text}"),
                        _ => format!("{name}={value}"),
                    })
                    .collect();
                pairs.join(" ")
            }
        }
    }

    /// What the API shows of a closed connection.
    pub(super) fn connection(&self, numbers: &Numbers) -> Connection {
        Connection {
            source: Party {
                workload: connections::name(self.source.workload.as_ref()),
                address: self.source.address,
            },
            destination: self.destination.address,
            original: self.original,
            service: self.service.as_ref().map(ToString::to_string),
            verdict: self.verdict.map_or("unknown", Verdict::as_str).to_owned(),
            protocol: connections::protocol(numbers, self.numbers.1, self.original.port()),
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            rtt_micros: self.rtt_micros,
            retransmits: self.retransmits,
            accelerated: self.accelerated,
            closed: true,
        }
    }

    /// The fields as ztunnel names them, then ours.
    fn fields(&self, time: &str) -> Vec<(&'static str, Value)> {
        let mut fields = vec![
            ("time", Value::from(time)),
            ("event", Value::from(word(self.kind))),
        ];
        add_peer(&mut fields, &SOURCE, &self.source);
        add_peer(&mut fields, &DESTINATION, &self.destination);
        if let Some(service) = &self.service {
            fields.push(("dst.service", Value::from(service.to_string())));
        }
        fields.push(("original", Value::from(self.original.to_string())));
        let direction = match self.kind {
            Kind::DeniedInbound => "inbound",
            _ => "outbound",
        };
        fields.push(("direction", Value::from(direction)));
        if let Some(verdict) = self.verdict {
            fields.push(("verdict", Value::from(verdict.as_str())));
        }
        fields.push(("reason", Value::from(self.reason.as_str())));
        fields.push(("pid", Value::from(self.pid)));
        if self.kind == Kind::Closed {
            let duration = format!("{}ms", self.duration.as_millis());
            fields.push(("bytes_sent", Value::from(self.bytes_sent)));
            fields.push(("bytes_recv", Value::from(self.bytes_received)));
            fields.push(("duration", Value::from(duration)));
            fields.push(("rtt_micros", Value::from(self.rtt_micros)));
            fields.push(("retransmits", Value::from(self.retransmits)));
        } else if self.kind != Kind::AuditDenied && self.kind != Kind::Bypassed {
            fields.push(("error", Value::from("connection refused by the mesh")));
        }
        fields
    }
}

/// Names of the fields of one end: address, workload, namespace, identity.
type PeerFields = [&'static str; 4];

const SOURCE: PeerFields = ["src.addr", "src.workload", "src.namespace", "src.identity"];
const DESTINATION: PeerFields = ["dst.addr", "dst.workload", "dst.namespace", "dst.identity"];

fn add_peer(fields: &mut Vec<(&'static str, Value)>, names: &PeerFields, peer: &Peer) {
    let [address, workload, namespace, identity] = *names;
    fields.push((address, Value::from(peer.address.to_string())));
    if let Some(key) = &peer.workload {
        fields.push((workload, Value::from(key.name.clone())));
        fields.push((namespace, Value::from(key.namespace.clone())));
        if let Some(account) = &peer.service_account {
            fields.push((
                identity,
                Value::from(format!("{}/{account}", key.namespace)),
            ));
        }
    }
}

/// Whether a word needs no quotes.
fn is_plain(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    !text.is_empty() && text.bytes().all(is_plain)
}

/// The caller's end. At connect the kernel has not chosen its address: then it is the workload's first.
fn caller(event: &Event, original: SocketAddr, numbers: &Numbers) -> Peer {
    let mut address = SocketAddr::from(event.source);
    let workload = numbers.workload(event.workload).cloned();
    if address.ip().is_unspecified()
        && let Some(known) = workload
            .as_ref()
            .and_then(|key| numbers.snapshot().workloads.get(key))
    {
        let family = |ip: &&IpAddr| ip.to_canonical().is_ipv4() == original.is_ipv4();
        if let Some(ip) = known.spec.addresses.iter().find(family) {
            address.set_ip(*ip);
        }
    }
    peer(address, workload, numbers)
}

fn peer(address: SocketAddr, workload: Option<ObjectKey>, numbers: &Numbers) -> Peer {
    let service_account = workload
        .as_ref()
        .and_then(|key| numbers.snapshot().workloads.get(key))
        .map(|workload| workload.spec.service_account.clone());
    Peer {
        address,
        workload,
        service_account,
    }
}

const fn kind(number: u8) -> Option<Kind> {
    Some(match number {
        1 => Kind::Denied,
        2 => Kind::AuditDenied,
        3 => Kind::DeniedInbound,
        4 => Kind::Bypassed,
        5 => Kind::Closed,
        _ => return None,
    })
}

const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Denied => "denied",
        Kind::AuditDenied => "audit-denied",
        Kind::DeniedInbound => "denied-inbound",
        Kind::Bypassed => "bypassed",
        Kind::Closed => "closed",
    }
}

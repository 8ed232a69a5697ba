//! Messages: what of a question matters, and answers. Nothing that is forwarded goes through here, only what is answered.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::names::{DOMAIN, Found};
use crate::state::endpoint::Endpoint;
use crate::state::object::ObjectKey;
use crate::state::service::Service;

/// A question that the agent understands. Others are forwarded.
#[derive(Clone, Debug)]
pub(super) struct Question {
    message: Message,
    /// What is asked.
    pub(super) query: Query,
}

impl Question {
    /// Reads a question; `None` where it is none that the agent could answer.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_vec(bytes).ok()?;
        let metadata = &message.metadata;
        let [query] = message.queries.as_slice() else {
            return None;
        };
        let is_plain = metadata.message_type == MessageType::Query
            && metadata.op_code == OpCode::Query
            && query.query_class == DNSClass::IN
            && message.signature.is_none();
        let query = query.clone();
        is_plain.then_some(Self { message, query })
    }

    /// Whether the client wants recursion, which is part of what it asks.
    pub(super) const fn wants_recursion(&self) -> bool {
        self.message.metadata.recursion_desired
    }

    /// Whether the question has an EDNS record.
    pub(super) const fn has_edns(&self) -> bool {
        self.message.edns.is_some()
    }

    /// Whether the answer depends on the question alone: on no option of this client, and on no check of signatures.
    pub(super) fn is_simple(&self) -> bool {
        let has_options = self
            .message
            .edns
            .as_ref()
            .is_some_and(|edns| edns.flags().dnssec_ok || !edns.options().as_ref().is_empty());
        !has_options && !self.message.metadata.checking_disabled
    }

    /// Bytes of an answer that the client takes over UDP (RFC 6891, 6.2.3).
    pub(super) fn max_payload(&self) -> usize {
        usize::from(self.message.max_payload())
    }

    /// The answer about something of the mesh.
    pub(super) fn answer(&self, found: &Found<'_>, ttl: Duration, serial: u32) -> Message {
        let mut answer = self.blank(ResponseCode::NoError);
        answer.metadata.authoritative = true;
        let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let name = &self.query.name;
        let record = |data| Record::from_rdata(name.clone(), ttl, data);
        match found {
            Found::Elsewhere | Found::Branch => {}
            Found::Nothing => answer.metadata.response_code = ResponseCode::NXDomain,
            Found::Service(service) => {
                let addresses = addresses(service, self.query.query_type);
                answer.add_answers(addresses.map(record));
            }
            Found::Port(key, service, port) => {
                if let (true, Some(target)) = (self.wants(RecordType::SRV), name_of(key)) {
                    let data = SRV::new(0, 100, port.port, target.clone());
                    answer.add_answer(record(RData::SRV(data)));
                    let more = addresses(service, RecordType::ANY);
                    answer.add_additionals(
                        more.map(|data| Record::from_rdata(target.clone(), ttl, data)),
                    );
                }
            }
            Found::Endpoints(endpoints) => {
                let kind = self.query.query_type;
                let data = endpoints
                    .iter()
                    .filter_map(|it| data(it.spec.address, kind));
                answer.add_answers(data.map(record));
            }
            Found::Ports(key, endpoints, port) => {
                let endpoints = endpoints.iter().filter(|_| self.wants(RecordType::SRV));
                for endpoint in endpoints {
                    let Some(target) = name_of_endpoint(key, endpoint) else {
                        continue;
                    };
                    let (number, address) = (endpoint.spec.port_of(port), endpoint.spec.address);
                    let data = SRV::new(0, 100, number, target.clone());
                    answer.add_answer(record(RData::SRV(data)));
                    let more = self::data(address, RecordType::ANY);
                    answer.add_additionals(more.map(|it| Record::from_rdata(target, ttl, it)));
                }
            }
            Found::Address(key) => {
                if let (true, Some(target)) = (self.wants(RecordType::PTR), name_of(key)) {
                    answer.add_answer(record(RData::PTR(PTR(target))));
                }
            }
        }
        if answer.answers.is_empty() {
            answer.add_authorities(authority(ttl, serial));
        }
        answer
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.query.query_type == kind || self.query.query_type == RecordType::ANY
    }

    /// The answer of a resolver to somebody else who asked the same, for this client.
    pub(super) fn adopt(&self, mut answer: Message) -> Message {
        answer.metadata.id = self.message.metadata.id;
        // The client may compare the letters' case, too.
        answer.queries = vec![self.query.clone()];
        answer
    }

    /// An answer without records.
    pub(super) fn blank(&self, code: ResponseCode) -> Message {
        let asked = &self.message.metadata;
        let mut answer = Message::response(asked.id, asked.op_code);
        answer.metadata.recursion_desired = asked.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = code;
        answer.add_query(self.query.clone());
        if self.message.edns.is_some() {
            answer.set_edns(Edns::new());
        }
        answer
    }
}

/// The answer to something that cannot be read, if it has as much as a header.
pub(super) fn failure(bytes: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let answer = if let Some(question) = Question::read(bytes) {
        question.blank(code)
    } else {
        let [first, second, ..] = bytes else {
            return None;
        };
        if bytes.len() < HEADER {
            return None;
        }
        let id = u16::from_be_bytes([*first, *second]);
        Message::error_msg(id, OpCode::Query, code)
    };
    answer.to_vec().ok()
}

/// Whether a question is for a whole zone, or for what has changed in it: the answer may be of many messages.
pub(super) fn is_transfer(bytes: &[u8]) -> bool {
    let kinds = [RecordType::AXFR, RecordType::IXFR];
    Message::from_vec(bytes)
        .is_ok_and(|it| it.queries.iter().any(|it| kinds.contains(&it.query_type)))
}

/// The bytes of an answer, cut where they are more than `limit`: the client then asks over TCP.
pub(super) fn encode(answer: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    let mut cut = answer.truncate();
    cut.answers.clear();
    cut.authorities.clear();
    cut.additionals.clear();
    cut.to_vec().ok()
}

/// Bytes of the header of every message (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// The whole name of a service.
pub(super) fn name_of(key: &ObjectKey) -> Option<Name> {
    let labels = key.name.split('.').chain([&*key.namespace, DOMAIN]);
    let mut name = Name::from_labels(labels.map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The whole name of an endpoint of a headless service.
fn name_of_endpoint(service: &ObjectKey, endpoint: &Endpoint) -> Option<Name> {
    let labels = endpoint.metadata.name.split('.').map(str::as_bytes);
    let endpoint = Name::from_labels(labels).ok()?;
    let mut name = endpoint.append_name(&name_of(service)?).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn addresses(service: &Service, wanted: RecordType) -> impl Iterator<Item = RData> + '_ {
    let addresses = service.virtual_addresses().iter();
    addresses.filter_map(move |address| data(*address, wanted))
}

/// An address as a record of a wanted type, if it is one.
fn data(address: IpAddr, wanted: RecordType) -> Option<RData> {
    match (address.to_canonical(), wanted) {
        (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => Some(RData::A(A(ip))),
        (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(AAAA(ip))),
        _ => None,
    }
}

/// Who says that there is nothing, and how long that may be remembered (RFC 2308, 3).
fn authority(ttl: u32, serial: u32) -> Option<Record> {
    let domain = Name::from_labels([DOMAIN.as_bytes()]).ok()?;
    let server = domain.prepend_label("ns").ok()?;
    let mailbox = domain.prepend_label("hostmaster").ok()?;
    let seconds = i32::try_from(ttl).unwrap_or(i32::MAX);
    let soa = SOA::new(server, mailbox, serial, seconds, seconds, seconds, ttl);
    Some(Record::from_rdata(domain, ttl, RData::SOA(soa)))
}

#[cfg(test)]
mod tests;

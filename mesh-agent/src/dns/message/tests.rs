//! Questions and answers, as bytes.

use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::{Question, encode, failure, is_transfer};
use crate::dns::names::find;
use crate::dns::names::tests::dotted;

const TTL: Duration = Duration::from_secs(5);

fn asked(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn question(message: &Message) -> Question {
    Question::read(&message.to_vec().unwrap()).unwrap()
}

/// The answer to a question about the mesh, as its bytes say.
fn answer(name: &str, kind: RecordType) -> Message {
    let question = question(&asked(name, kind));
    let snapshot = dotted();
    let found = find(&snapshot, Some("shop"), &question.query.name);
    let answer = question.answer(&found, TTL, 7);
    Message::from_vec(&answer.to_vec().unwrap()).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    let records = message.answers.iter();
    records.map(|record| record.data.to_string()).collect()
}

#[test]
fn a_service_has_its_virtual_addresses_for_a_while() {
    let v4 = answer("Web.shop.mesh.", RecordType::A);
    assert_eq!(data(&v4), ["240.240.0.1"]);
    assert_eq!(v4.metadata.id, 4711);
    assert_eq!(v4.metadata.message_type, MessageType::Response);
    assert!(v4.metadata.authoritative && v4.metadata.recursion_desired);
    assert_eq!(v4.answers[0].ttl, 5);
    assert_eq!(
        v4.queries[0].name.to_ascii(),
        "Web.shop.mesh.",
        "as it was asked"
    );
    assert_eq!(data(&answer("web.", RecordType::AAAA)), ["fd00:240:240::1"]);
    assert_eq!(data(&answer("web.shop.", RecordType::ANY)).len(), 2);
}

#[test]
fn what_is_not_there_is_told_with_how_long_that_holds() {
    for (name, kind, code) in [
        ("api.shop.mesh.", RecordType::A, ResponseCode::NXDomain),
        ("dns.shop.mesh.", RecordType::AAAA, ResponseCode::NoError),
        ("web.shop.mesh.", RecordType::MX, ResponseCode::NoError),
        ("shop.mesh.", RecordType::A, ResponseCode::NoError),
    ] {
        let answer = answer(name, kind);
        assert_eq!(answer.metadata.response_code, code, "{name}");
        assert!(answer.answers.is_empty(), "{name}");
        let RData::SOA(soa) = &answer.authorities[0].data else {
            panic!("{answer}")
        };
        assert_eq!(
            (soa.minimum, soa.serial, answer.authorities[0].ttl),
            (5, 7, 5)
        );
    }
}

#[test]
fn ports_and_addresses_lead_back_to_the_service() {
    let port = answer("_http._tcp.web.shop.mesh.", RecordType::SRV);
    assert_eq!(data(&port), ["0 100 80 web.shop.mesh."]);
    assert_eq!(port.additionals.len(), 2);
    let address = answer("1.0.240.240.in-addr.arpa.", RecordType::PTR);
    assert_eq!(data(&address), ["web.shop.mesh."]);
}

#[test]
fn names_with_dots_are_written_label_by_label() {
    let port = answer("_http._tcp.web.v1.shop.mesh.", RecordType::SRV);
    let RData::SRV(srv) = &port.answers[0].data else {
        panic!("{port}")
    };
    assert_eq!(srv.target, Name::from_ascii("web.v1.shop.mesh.").unwrap());
    let address = answer("9.0.240.240.in-addr.arpa.", RecordType::PTR);
    assert_eq!(data(&address), ["web.v1.shop.mesh."]);
}

#[test]
fn transfers_of_zones_are_known() {
    let is = |kind| is_transfer(&asked("example.com.", kind).to_vec().unwrap());
    assert!(is(RecordType::AXFR) && is(RecordType::IXFR) && !is(RecordType::A));
    assert!(!is_transfer(b""));
}

#[test]
fn what_the_agent_does_not_understand_is_no_question() {
    let mut update = asked("web.shop.mesh.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    let mut two = asked("web.shop.mesh.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let mut answer = asked("web.shop.mesh.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    for message in [update, two, answer] {
        assert!(
            Question::read(&message.to_vec().unwrap()).is_none(),
            "{message}"
        );
    }
    assert!(Question::read(b"").is_none() && Question::read(&[0xff; 40]).is_none());
}

#[test]
fn a_failure_is_told_to_whoever_sent_as_much_as_a_header() {
    let bytes = asked("example.com.", RecordType::A).to_vec().unwrap();
    let told = |bytes: &[u8]| {
        let answer = failure(bytes, ResponseCode::ServFail)?;
        Some(Message::from_vec(&answer).unwrap())
    };
    let whole = told(&bytes).unwrap();
    assert_eq!(whole.metadata.response_code, ResponseCode::ServFail);
    assert_eq!((whole.metadata.id, whole.queries.len()), (4711, 1));
    let torn = told(&bytes[..20]).unwrap();
    assert_eq!((torn.metadata.id, torn.queries.len()), (4711, 0));
    assert!(told(&bytes[..11]).is_none());
}

#[test]
fn an_answer_that_is_too_long_is_cut_and_says_so() {
    let mut message = asked("web.shop.mesh.", RecordType::ANY);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    let question = question(&message);
    assert_eq!(question.max_payload(), 1232);
    let snapshot = dotted();
    let found = find(&snapshot, None, &question.query.name);
    let answer = question.answer(&found, TTL, 7);
    assert!(answer.edns.is_some(), "who speaks EDNS is answered in it");
    let whole = encode(&answer, 512).unwrap();
    assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 2);
    let cut = encode(&answer, 60).unwrap();
    let cut = Message::from_vec(&cut).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(cut.metadata.id, 4711);
}

#[test]
fn a_headless_service_is_answered_with_its_endpoints() {
    assert_eq!(data(&answer("db.shop.mesh.", RecordType::A)), ["10.0.0.1"]);
    assert_eq!(
        data(&answer("db.shop.mesh.", RecordType::AAAA)),
        ["fd00::2"]
    );
    let ports = answer("_sql._tcp.db.shop.mesh.", RecordType::SRV);
    let expected = [
        "0 100 5433 db-1.db.shop.mesh.",
        "0 100 5432 db-2.db.shop.mesh.",
    ];
    assert_eq!(data(&ports), expected);
    let more: Vec<String> = ports
        .additionals
        .iter()
        .map(|it| it.data.to_string())
        .collect();
    assert_eq!(more, ["10.0.0.1", "fd00::2"]);
    let one = answer("db-4.b.db.shop.mesh.", RecordType::A);
    assert_eq!(data(&one), ["10.0.0.4"]);
    let none = answer("db-4.b.db.shop.mesh.", RecordType::AAAA);
    assert_eq!((none.answers.len(), none.authorities.len()), (0, 1));
}

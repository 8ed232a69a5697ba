//! What is kept, for how long, and for whom.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::{Cache, Key};
use crate::dns::message::Question;

const SECOND: u64 = 1_000_000_000;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn asked(text: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(name(text), kind));
    message
}

fn key_of(message: &Message, netns: u64, resolver: &str) -> Option<Key> {
    let question = Question::read(&message.to_vec().unwrap()).unwrap();
    Key::of(netns, resolver.parse::<SocketAddr>().unwrap(), &question)
}

fn key(text: &str) -> Key {
    key_of(&asked(text, RecordType::A), 1, "10.0.0.53:53").unwrap()
}

/// An answer with an address that holds for so many seconds.
fn positive(text: &str, ttl: u32) -> Message {
    let mut answer = Message::response(1, OpCode::Query);
    answer.add_query(Query::query(name(text), RecordType::A));
    let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
    answer.add_answer(Record::from_rdata(name(text), ttl, data));
    answer
}

/// That there is nothing, which holds for so many seconds.
fn negative(text: &str, ttl: u32, minimum: u32) -> Message {
    let mut answer = Message::response(1, OpCode::Query);
    answer.metadata.response_code = ResponseCode::NXDomain;
    answer.add_query(Query::query(name(text), RecordType::A));
    let soa = SOA::new(name("com."), name("com."), 1, 1, 1, 1, minimum);
    answer.add_authority(Record::from_rdata(name("com."), ttl, RData::SOA(soa)));
    answer
}

/// For how many seconds an answer is kept.
fn kept(answer: &Message) -> u64 {
    let mut cache = Cache::new(8, Duration::from_secs(30));
    cache.keep(key("a.com."), &answer.to_vec().unwrap(), 0);
    let is_kept = |at: &u64| cache.get(&key("a.com."), *at * SECOND).is_some();
    (0..40).take_while(is_kept).count() as u64
}

#[test]
fn answers_are_kept_as_long_as_they_say_and_no_longer_than_allowed() {
    assert_eq!(kept(&positive("a.com.", 3)), 3);
    assert_eq!(kept(&positive("A.com.", 3)), 3, "in any case");
    assert_eq!(kept(&positive("a.com.", 0)), 0);
    assert_eq!(kept(&positive("a.com.", 3_000)), 30);
    assert_eq!(kept(&negative("a.com.", 9, 4)), 4);
    assert_eq!(kept(&negative("a.com.", 4, 9)), 4);
}

#[test]
fn what_is_no_whole_answer_is_not_kept() {
    let mut failed = positive("a.com.", 3);
    failed.metadata.response_code = ResponseCode::ServFail;
    let mut cut = positive("a.com.", 3);
    cut.metadata.truncation = true;
    let mut unsaid = negative("a.com.", 9, 4);
    unsaid.authorities.clear();
    let other = positive("b.com.", 3);
    for answer in [failed, cut, unsaid, other, asked("a.com.", RecordType::A)] {
        assert_eq!(kept(&answer), 0, "{answer}");
    }
}

#[test]
fn the_time_to_live_runs_down() {
    let mut cache = Cache::new(8, Duration::from_secs(30));
    let answer = positive("a.com.", 20).to_vec().unwrap();
    cache.keep(key("a.com."), &answer, 5 * SECOND);
    let answer = cache.get(&key("a.com."), 12 * SECOND).unwrap();
    assert_eq!(answer.answers[0].ttl, 13);
}

#[test]
fn namespaces_and_resolvers_share_nothing() {
    let message = asked("a.com.", RecordType::A);
    let mut cache = Cache::new(8, Duration::from_secs(30));
    let answer = positive("a.com.", 3).to_vec().unwrap();
    cache.keep(key("a.com."), &answer, 0);
    assert!(cache.get(&key("A.COM."), 0).is_some());
    for (netns, resolver) in [(2, "10.0.0.53:53"), (1, "10.0.0.54:53")] {
        let other = key_of(&message, netns, resolver).unwrap();
        assert!(cache.get(&other, 0).is_none());
    }
    let other = asked("a.com.", RecordType::AAAA);
    assert!(
        cache
            .get(&key_of(&other, 1, "10.0.0.53:53").unwrap(), 0)
            .is_none()
    );
    cache.forget(1);
    assert_eq!(cache.len(), 0);
}

#[test]
fn questions_with_wishes_of_their_own_are_not_answered_from_memory() {
    let is_kept = |message: &Message| key_of(message, 1, "10.0.0.53:53").is_some();
    let mut plain = asked("a.com.", RecordType::A);
    assert!(is_kept(&plain));
    plain.set_edns(Edns::new());
    assert!(is_kept(&plain));
    let mut signed = plain.clone();
    signed.set_edns(Edns::new().set_dnssec_ok(true).clone());
    plain.metadata.checking_disabled = true;
    let unknown = asked("a.com.", RecordType::Unknown(65_400));
    for message in [signed, plain, unknown] {
        assert!(!is_kept(&message), "{message}");
    }
}

#[test]
fn a_full_cache_forgets_the_oldest() {
    let mut cache = Cache::new(2, Duration::from_secs(30));
    for text in ["a.com.", "b.com.", "b.com.", "c.com."] {
        let answer = positive(text, 3).to_vec().unwrap();
        cache.keep(key(text), &answer, 0);
    }
    assert!(cache.get(&key("a.com."), 0).is_none());
    assert!(cache.get(&key("b.com."), 0).is_some() && cache.get(&key("c.com."), 0).is_some());
    assert_eq!(cache.len(), 2);
    let mut none = Cache::new(0, Duration::from_secs(30));
    none.keep(key("a.com."), &positive("a.com.", 3).to_vec().unwrap(), 0);
    assert_eq!(none.len(), 0);
}

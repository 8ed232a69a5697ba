//! What is read from files and answers.

use hickory_proto::op::OpCode;
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, AAAA, CNAME};

use super::*;

fn at() -> SocketAddr {
    "192.0.2.53:53".parse().unwrap()
}

fn name() -> Name {
    Name::from_ascii("api.example.com.").unwrap()
}

fn answer(code: ResponseCode, records: Vec<(u32, RData)>) -> Message {
    let mut answer = Message::response(1, OpCode::Query);
    answer.metadata.response_code = code;
    for (ttl, data) in records {
        answer.add_answer(Record::from_rdata(name(), ttl, data));
    }
    answer
}

fn v4(last: u8) -> RData {
    RData::A(A::new(192, 0, 2, last))
}

fn found(list: &[&str], ttl: u64) -> Found {
    Found {
        addresses: list.iter().map(|it| it.parse().unwrap()).collect(),
        ttl: Duration::from_secs(ttl),
        unknown: None,
    }
}

fn silent() -> Trouble {
    Trouble::Silent {
        resolver: at(),
        source: io::ErrorKind::TimedOut.into(),
    }
}

#[test]
fn the_first_three_resolvers_of_the_file_are_asked() {
    let text = "# mine\nsearch example.com\nnameserver 192.0.2.53 # first\n nameserver fd00::53\n\
                nameserver fe80::1%eth0\nnameserver 1.1.1.1\nnameserver 1.0.0.1\n";
    let expected = ["192.0.2.53:53", "[fd00::53]:53", "1.1.1.1:53"];
    let expected: Vec<SocketAddr> = expected.map(|it| it.parse().unwrap()).into();
    assert_eq!(resolvers(text), expected);
    assert_eq!(resolvers("options edns0\n"), []);
}

#[test]
fn addresses_behind_aliases_count_and_live_as_long_as_the_shortest() {
    let alias = RData::CNAME(CNAME(Name::from_ascii("cdn.example.net.").unwrap()));
    let records = vec![(30, alias), (60, v4(1)), (90, v4(2))];
    let answer = answer(ResponseCode::NoError, records);
    let expected = found(&["192.0.2.1", "192.0.2.2"], 30);
    assert_eq!(addresses(&answer, &name(), at()).unwrap(), expected);
}

#[test]
fn an_answer_without_addresses_says_why() {
    let check = |answer: Message, reason: &str, is_final: bool| {
        let trouble = addresses(&answer, &name(), at()).unwrap_err();
        assert_eq!((trouble.reason(), trouble.is_final()), (reason, is_final));
    };
    let none = Vec::new;
    check(answer(ResponseCode::NXDomain, none()), "NameNotFound", true);
    check(answer(ResponseCode::NoError, none()), "NoAddress", true);
    check(
        answer(ResponseCode::ServFail, none()),
        "ResolverFailed",
        false,
    );
    check(
        answer(ResponseCode::Refused, none()),
        "ResolverFailed",
        false,
    );
}

#[test]
fn one_family_is_enough() {
    let six = RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let six = addresses(
        &answer(ResponseCode::NoError, vec![(9, six)]),
        &name(),
        at(),
    );
    let both = merge(Ok(found(&["192.0.2.1"], 20)), six).unwrap();
    assert_eq!(both, found(&["192.0.2.1", "2001:db8::1"], 9));
    let four = || Ok(found(&["192.0.2.1"], 20));
    let lost = merge(four(), Err(silent())).unwrap();
    assert_eq!(lost.addresses, four().unwrap().addresses);
    assert_eq!(lost.unknown, Some(Family::V6));
    let lost = merge(Err(silent()), Ok(found(&["2001:db8::1"], 20))).unwrap();
    assert_eq!(lost.unknown, Some(Family::V4));
    let empty = || Err(Trouble::NoAddress("x".to_owned()));
    assert_eq!(merge(empty(), four()).unwrap(), four().unwrap());
    assert_eq!(
        merge(empty(), Err(silent())).unwrap_err().reason(),
        "ResolverFailed"
    );
    assert_eq!(
        merge(Err(silent()), empty()).unwrap_err().reason(),
        "ResolverFailed"
    );
    assert_eq!(merge(empty(), empty()).unwrap_err().reason(), "NoAddress");
}

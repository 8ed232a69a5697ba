//! What the JSON gateway of etcd v3 says and hears: requests to JSON, answers from JSON. Pure.
//!
//! The names are those of `etcdserver.proto` in the JSON mapping of protocol buffers: bytes are Base64, 64-bit numbers are
//! strings, and what is zero is left out.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, as Base64 in the JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text(pub(super) Vec<u8>);

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
        Ok(Self(bytes))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

/// A 64-bit number, as a string in the JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(pub(super) i64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or one in a string")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                i64::try_from(number).map(Number).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                text.parse().map(Number).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// What every answer begins with.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Header {
    /// The write that the answer has seen.
    #[serde(default)]
    pub(super) revision: Number,
}

/// A key, its value, and who wrote it when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct KeyValue {
    pub(super) key: Text,
    #[serde(default)]
    pub(super) value: Text,
    /// The write that made the key.
    #[serde(default)]
    pub(super) create_revision: Number,
    /// The write that made this value.
    #[serde(default)]
    pub(super) mod_revision: Number,
    /// The lease with which it goes; zero: none.
    #[serde(default)]
    pub(super) lease: Number,
}

/// `kv/range`.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Range {
    pub(super) key: Text,
    /// The first key that is not meant any more; empty: only `key`.
    #[serde(rename = "range_end")]
    pub(super) end: Text,
    pub(super) limit: Number,
    /// As it was after this write; zero: as it is.
    pub(super) revision: Number,
}

/// The answer to [`Range`].
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Ranged {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
    #[serde(default)]
    pub(super) more: bool,
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Operation {
    #[serde(rename = "request_put")]
    Put {
        key: Text,
        value: Text,
        lease: Number,
    },
    #[serde(rename = "request_delete_range")]
    Delete { key: Text },
    #[serde(rename = "request_range")]
    Get { key: Text },
}

/// What has to hold for a transaction to succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "target", rename_all = "UPPERCASE")]
pub(super) enum Compare {
    /// The write that made the value of `key`; zero: there is none.
    Mod {
        key: Text,
        mod_revision: Number,
        result: Equality,
    },
    /// The lease of `key`.
    Lease {
        key: Text,
        lease: Number,
        result: Equality,
    },
    /// The value of `key`.
    Value {
        key: Text,
        value: Text,
        result: Equality,
    },
}

/// How two things are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Equality {
    /// They are the same.
    Equal,
}

impl Compare {
    /// The value of `key` was made by that write; zero: there is none.
    pub(super) fn is_at(key: &str, revision: i64) -> Self {
        Self::Mod {
            key: key.into(),
            mod_revision: Number(revision),
            result: Equality::Equal,
        }
    }

    /// It goes with this lease.
    pub(super) fn goes_with(key: &str, lease: i64) -> Self {
        Self::Lease {
            key: key.into(),
            lease: Number(lease),
            result: Equality::Equal,
        }
    }

    /// It is this value.
    pub(super) fn holds(key: &str, value: &str) -> Self {
        Self::Value {
            key: key.into(),
            value: value.into(),
            result: Equality::Equal,
        }
    }
}

/// `kv/txn`: all of `success` where all of `compare` holds, else all of `failure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Transaction {
    pub(super) compare: Vec<Compare>,
    pub(super) success: Vec<Operation>,
    pub(super) failure: Vec<Operation>,
}

/// The answer to [`Transaction`].
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Transacted {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Response {
    #[serde(default)]
    response_range: Ranged,
}

impl Transacted {
    /// What the [`Operation::Get`]s have found, in their order, as far as they found something.
    pub(super) fn found(&self) -> impl Iterator<Item = &KeyValue> {
        self.responses.iter().flat_map(|it| &it.response_range.kvs)
    }
}

/// `lease/grant`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Grant {
    #[serde(rename = "ID")]
    pub(super) id: Number,
    #[serde(rename = "TTL")]
    pub(super) ttl: Number,
}

/// `lease/keepalive`, `lease/revoke`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LeaseId {
    #[serde(rename = "ID")]
    pub(super) id: Number,
}

/// The answer to `lease/grant` and, in a [`Streamed`], to `lease/keepalive`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Lease {
    /// Seconds that are left; zero: there is no such lease.
    #[serde(default, rename = "TTL")]
    pub(super) ttl: Number,
}

/// `auth/authenticate`.
#[derive(Clone, Serialize)]
pub(super) struct Authenticate<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

/// The answer to [`Authenticate`].
#[derive(Clone, Deserialize)]
pub(super) struct Authenticated {
    pub(super) token: String,
}

/// `watch`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Watch {
    pub(super) create_request: WatchCreate,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct WatchCreate {
    pub(super) key: Text,
    #[serde(rename = "range_end")]
    pub(super) end: Text,
    /// The first write to be told about.
    pub(super) start_revision: Number,
    pub(super) progress_notify: bool,
    pub(super) fragment: bool,
}

/// A message of an answer that goes on.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Streamed<T> {
    Result(T),
    Error(Refused),
}

/// What etcd says where it does not do what was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Refused {
    /// Status of gRPC.
    #[serde(default, alias = "grpc_code")]
    pub(super) code: u32,
    #[serde(default)]
    pub(super) message: String,
}

/// A message of a watch.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Watched {
    #[serde(default)]
    pub(super) canceled: bool,
    #[serde(default)]
    pub(super) cancel_reason: String,
    /// The first write that is still known, where the one asked for is not.
    #[serde(default)]
    pub(super) compact_revision: Number,
    /// Whether more events of the same write follow in the next message.
    #[serde(default)]
    pub(super) fragment: bool,
    #[serde(default)]
    pub(super) events: Vec<Event>,
}

/// One change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Event {
    #[serde(default, rename = "type")]
    pub(super) kind: EventKind,
    #[serde(default)]
    pub(super) kv: KeyValue,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum EventKind {
    /// It has a value, or another one.
    #[default]
    Put,
    /// It has none any more.
    Delete,
}

/// The first key after all that begin with `prefix`.
pub(super) fn end_of(prefix: &str) -> Text {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    Text(end)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn transaction_is_written_as_the_gateway_reads_it() {
        let transaction = Transaction {
            compare: vec![
                Compare::is_at("a", 7),
                Compare::holds("b", "x"),
                Compare::goes_with("c", 9),
            ],
            success: vec![
                Operation::Put {
                    key: "a".into(),
                    value: "hi".into(),
                    lease: Number(77),
                },
                Operation::Delete { key: "b".into() },
            ],
            failure: vec![Operation::Get { key: "a".into() }],
        };
        let written = serde_json::to_value(&transaction).unwrap();
        let expected = json!({
            "compare": [
                {"target": "MOD", "key": "YQ==", "mod_revision": "7", "result": "EQUAL"},
                {"target": "VALUE", "key": "Yg==", "value": "eA==", "result": "EQUAL"},
                {"target": "LEASE", "key": "Yw==", "lease": "9", "result": "EQUAL"},
            ],
            "success": [
                {"request_put": {"key": "YQ==", "value": "aGk=", "lease": "77"}},
                {"request_delete_range": {"key": "Yg=="}},
            ],
            "failure": [{"request_range": {"key": "YQ=="}}],
        });
        assert_eq!(written, expected);
    }

    // The texts are what etcd 3.4.23 has said.
    #[test]
    fn failed_transaction_tells_what_is_there() {
        let text = r#"{"header":{"cluster_id":"15118495548433857066","revision":"3","raft_term":"2"},"responses":[{"response_range":{"header":{"revision":"3"},"kvs":[{"key":"YS8y","create_revision":"3","mod_revision":"3","version":"1","value":"dg=="}],"count":"1"}},{"response_put":{"header":{"revision":"3"}}}]}"#;
        let transacted: Transacted = serde_json::from_str(text).unwrap();
        assert!(!transacted.succeeded);
        let found: Vec<_> = transacted.found().collect();
        assert_eq!(
            (found[0].key.0.as_slice(), found[0].mod_revision),
            (&b"a/2"[..], Number(3))
        );
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn messages_of_a_watch_are_read() {
        let read = |text: &str| match serde_json::from_str(text).expect(text) {
            Streamed::<Watched>::Result(watched) => watched,
            Streamed::Error(error) => panic!("{error:?}"),
        };
        let events = read(
            r#"{"result":{"header":{"revision":"4"},"events":[{"kv":{"key":"YS8x","mod_revision":"2","value":"aGk=","lease":"77"}},{"type":"DELETE","kv":{"key":"YS8y","mod_revision":"4"}}]}}"#,
        );
        assert_eq!(events.events[0].kind, EventKind::Put);
        assert_eq!(events.events[0].kv.lease, Number(77));
        assert_eq!(events.events[1].kind, EventKind::Delete);
        let compacted = read(
            r#"{"result":{"header":{"raft_term":"2"},"canceled":true,"compact_revision":"3"}}"#,
        );
        assert!(compacted.canceled && compacted.compact_revision == Number(3));
    }

    #[test]
    fn refusals_are_read_from_answers_and_from_streams() {
        let text = r#"{"error":"etcdserver: lease already exists","message":"etcdserver: lease already exists","code":9}"#;
        let refused: Refused = serde_json::from_str(text).unwrap();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (9, "etcdserver: lease already exists")
        );
        let text = r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","http_status":"Service Unavailable"}}"#;
        match serde_json::from_str(text).unwrap() {
            Streamed::<Watched>::Error(refused) => assert_eq!(refused.code, 14),
            Streamed::Result(_) => panic!("it is an error"),
        }
    }

    #[test]
    fn end_of_a_prefix_is_the_next_key() {
        assert_eq!(end_of("mesh/"), "mesh0".into());
        assert_eq!(end_of("a\u{7f}"), Text(vec![b'a', 0x80]));
    }
}

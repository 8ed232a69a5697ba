//! A watch: the changes of all keys under a prefix, in the order of the writes.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::error::Error;
use super::lines::Lines;
use super::transport::Connection;
use super::wire::{Event, Refused, Streamed, Watched};

/// A watch that is under way.
pub(super) struct Watch {
    member: String,
    lines: Lines,
    body: Incoming,
    /// Carries the body.
    _connection: Connection,
}

/// What a watch says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// These changes.
    Events {
        /// In the order of the writes.
        events: Vec<Event>,
        /// The write from which a watch can go on that has seen them.
        next: i64,
    },
    /// Nothing has changed: a sign of life.
    Quiet,
    /// The writes that were asked for are not known any more.
    Compacted,
}

impl Watch {
    pub(super) fn new(member: String, connection: Connection, body: Incoming) -> Self {
        Self {
            member,
            lines: Lines::default(),
            body,
            _connection: connection,
        }
    }

    /// The member that is watched.
    pub(super) fn member(&self) -> &str {
        &self.member
    }

    /// The next message, however long it takes. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(line) = self.lines.next() {
                return message(&self.member, &line);
            }
            let frame = self.body.frame().await;
            let frame =
                frame.ok_or_else(|| Error::Ended("the connection was closed".to_owned()))?;
            let frame = frame.map_err(|source| Error::Exchange {
                member: self.member.clone(),
                source: source.into(),
            })?;
            if let Some(chunk) = frame.data_ref() {
                self.lines.push(chunk)?;
            }
        }
    }
}

/// What a line says.
fn message(member: &str, line: &[u8]) -> Result<Message, Error> {
    let read = serde_json::from_slice(line).map_err(|source| Error::Answer {
        member: member.to_owned(),
        path: "watch".to_owned(),
        status: 200,
        source,
    })?;
    let watched: Watched = match read {
        Streamed::Result(watched) => watched,
        Streamed::Error(Refused { code, message }) => return Err(Error::Refused { code, message }),
    };
    if watched.compact_revision.0 > 0 {
        return Ok(Message::Compacted);
    }
    if watched.canceled {
        return Err(Error::Ended(watched.cancel_reason));
    }
    if let Some(last) = watched.events.last() {
        // The rest of a write that was cut comes again.
        let next = last.kv.mod_revision.0 + i64::from(!watched.fragment);
        let events = watched.events;
        return Ok(Message::Events { events, next });
    }
    // The revision in the header may be ahead of events that are still to come (etcd issue 15220): it is not used.
    Ok(Message::Quiet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Message, Error> {
        message("a:2379", line.as_bytes())
    }

    #[test]
    fn watch_goes_on_after_the_last_whole_write() {
        let events = |fragment: &str| {
            let text = format!(
                r#"{{"result":{{"header":{{"revision":"9"}},{fragment}"events":[{{"kv":{{"key":"YQ==","mod_revision":"4"}}}},{{"type":"DELETE","kv":{{"key":"Yg==","mod_revision":"6"}}}}]}}}}"#
            );
            match read(&text) {
                Ok(Message::Events { events, next }) => (events.len(), next),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(events(""), (2, 7));
        assert_eq!(events(r#""fragment":true,"#), (2, 6));
    }

    #[test]
    fn end_of_a_watch_says_why() {
        let compacted = r#"{"result":{"header":{},"canceled":true,"compact_revision":"3"}}"#;
        assert_eq!(read(compacted).unwrap(), Message::Compacted);
        let cancelled = r#"{"result":{"canceled":true,"cancel_reason":"permission denied"}}"#;
        let error = read(cancelled).unwrap_err().to_string();
        assert!(error.contains("permission denied"), "{error}");
        let failed = r#"{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}"#;
        assert!(read(failed).unwrap_err().is_of_member());
        assert!(matches!(read("<html>"), Err(Error::Answer { .. })));
    }

    #[test]
    fn header_of_a_quiet_watch_is_not_trusted() {
        let created = r#"{"result":{"header":{"revision":"12"},"created":true}}"#;
        assert_eq!(read(created).unwrap(), Message::Quiet);
    }
}

//! Answers of resolvers, kept as long as they say and the settings allow. Bounded; the clock is an argument.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::message::Question;

/// What an answer is the answer to. Workloads share nothing: each network namespace has its own view of the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    netns: u64,
    resolver: SocketAddr,
    name: Name,
    kind: RecordType,
    wants_recursion: bool,
    has_edns: bool,
}

impl Key {
    /// The key of a question whose answer may be kept.
    pub(super) fn of(netns: u64, resolver: SocketAddr, question: &Question) -> Option<Self> {
        let kind = question.query.query_type;
        let is_common = matches!(
            kind,
            RecordType::A
                | RecordType::AAAA
                | RecordType::CNAME
                | RecordType::MX
                | RecordType::NS
                | RecordType::PTR
                | RecordType::SOA
                | RecordType::SRV
                | RecordType::TXT
        );
        (is_common && question.is_simple()).then(|| Self {
            netns,
            resolver,
            name: question.query.name.to_lowercase(),
            kind,
            wants_recursion: question.wants_recursion(),
            has_edns: question.has_edns(),
        })
    }
}

#[derive(Debug)]
struct Entry {
    answer: Message,
    kept_ns: u64,
    gone_ns: u64,
}

/// Answers by question.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    /// Keys in the order in which they came; some may be gone.
    order: VecDeque<Key>,
    capacity: usize,
    longest: Duration,
}

impl Cache {
    /// Room for `capacity` answers, each for `longest` at most.
    pub(super) fn new(capacity: usize, longest: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            capacity,
            longest,
        }
    }

    /// Answers that are kept, some of them perhaps out of date.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The answer to a question, as old as it is.
    pub(super) fn get(&self, key: &Key, now_ns: u64) -> Option<Message> {
        let entry = self.entries.get(key)?;
        if now_ns >= entry.gone_ns {
            return None;
        }
        let age = Duration::from_nanos(now_ns.saturating_sub(entry.kept_ns));
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let mut answer = entry.answer.clone();
        let Message {
            answers,
            authorities,
            additionals,
            ..
        } = &mut answer;
        for record in answers.iter_mut().chain(authorities).chain(additionals) {
            record.decrement_ttl(age);
        }
        Some(answer)
    }

    /// Keeps the bytes that a resolver has answered, if they may be kept.
    pub(super) fn keep(&mut self, key: Key, bytes: &[u8], now_ns: u64) {
        if self.capacity == 0 || bytes.len() > LARGEST {
            return;
        }
        let Ok(answer) = Message::from_vec(bytes) else {
            return;
        };
        let Some(life) = life(&answer, &key).map(|life| life.min(self.longest)) else {
            return;
        };
        while self.order.len() >= self.capacity {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.entries.remove(&oldest);
        }
        let life = u64::try_from(life.as_nanos()).unwrap_or(u64::MAX);
        let entry = Entry {
            answer,
            kept_ns: now_ns,
            gone_ns: now_ns.saturating_add(life),
        };
        if self.entries.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
    }

    /// Forgets what a network namespace has asked.
    pub(super) fn forget(&mut self, netns: u64) {
        self.entries.retain(|key, _| key.netns != netns);
        self.order.retain(|key| key.netns != netns);
    }
}

/// How long an answer may be kept; `None`: not at all.
fn life(answer: &Message, key: &Key) -> Option<Duration> {
    let metadata = &answer.metadata;
    let [query] = answer.queries.as_slice() else {
        return None;
    };
    let is_answer = metadata.message_type == MessageType::Response
        && !metadata.truncation
        && answer.signature.is_none()
        && query.name.to_lowercase() == key.name
        && query.query_type == key.kind;
    if !is_answer {
        return None;
    }
    let has_it = |wanted: RecordType| {
        let mut records = answer.answers.iter();
        records.any(|record| record.record_type() == wanted)
    };
    let seconds = match metadata.response_code {
        ResponseCode::NoError if has_it(key.kind) => {
            answer.answers.iter().map(|record| record.ttl).min()?
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let in_answers = answer.answers.iter().map(|record| record.ttl).min();
            negative(answer)?.min(in_answers.unwrap_or(u32::MAX))
        }
        _ => return None,
    };
    (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
}

/// For how many seconds it holds that there is nothing (RFC 2308, 5).
fn negative(answer: &Message) -> Option<u32> {
    answer
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })
}

/// Larger answers are not kept: a full cache takes some 20 MiB at most.
const LARGEST: usize = 4096;

#[cfg(test)]
mod tests;

//! The rate limits of a target, with their buckets.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};

use crate::net::clock;
use crate::proxy::caller::Caller;
use crate::state::object::ObjectKey;
use crate::state::traffic_policy::TrafficPolicy;
use crate::state::traffic_policy::shaping::{RateLimit, RateLimitMode};
use crate::traffic::fields::Fields;
use crate::traffic::limit::keyed::Keyed;
use crate::traffic::limit::{Bucket, Granted, Rate, Refused, nanos};

/// Limits of all levels: each must have room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// Of requests.
    pub(crate) requests: Vec<Arc<Limit>>,
    /// Of new connections.
    pub(crate) connections: Vec<Arc<Limit>>,
    /// Of bytes.
    pub(crate) bytes: Vec<Arc<Limit>>,
    /// Those of this level.
    own: Vec<Arc<Limit>>,
}

/// One limit.
#[derive(Debug)]
pub(crate) struct Limit {
    /// The policy that it is part of.
    pub(crate) policy: ObjectKey,
    /// Its field `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11).
    pub(crate) field: HeaderValue,
    /// How many there may be in its time.
    pub(crate) amount: u64,
    /// The name in that field.
    pub(crate) name: String,
    /// How fast, how much.
    pub(crate) rate: Rate,
    spec: RateLimit,
    patience_ns: u64,
    buckets: Buckets,
}

#[derive(Debug)]
enum Buckets {
    One(Bucket),
    ByKey {
        parts: Vec<Part>,
        hasher: RandomState,
        /// Each with its own lock, held for one look-up: two threads meet rarely.
        shards: Vec<Mutex<Keyed>>,
    },
}

/// What makes a key.
#[derive(Debug)]
enum Part {
    Workload,
    Identity,
    Header(HeaderName),
}

/// Parts of a table of keys.
const SHARDS: usize = 16;
/// Keys of a limit.
const KEYS: usize = 10_000;

impl Limits {
    /// The same limits one level below, which has none of its own.
    pub(crate) fn passed_on(&self) -> Self {
        Self {
            requests: self.requests.clone(),
            connections: self.connections.clone(),
            bytes: self.bytes.clone(),
            own: Vec::new(),
        }
    }

    /// Limits of the level above, and those of `object`. Buckets of `old`, the same level in the last view, are kept
    /// where the words that made them are the same.
    pub(crate) fn derive(base: &Self, object: &TrafficPolicy, old: Option<&Self>) -> Self {
        let mut limits = Self {
            requests: base.requests.clone(),
            connections: base.connections.clone(),
            bytes: base.bytes.clone(),
            own: Vec::new(),
        };
        let mut kept: Vec<_> = old.map_or_else(Vec::new, |old| old.own.clone());
        let policy = object.key();
        for (index, spec) in object.spec.rate_limits.iter().enumerate() {
            let found = kept
                .iter()
                .position(|it| it.spec == *spec && it.policy == policy);
            let limit = match found {
                Some(found) => kept.swap_remove(found),
                None => match Limit::compile(policy.clone(), index, spec) {
                    Some(limit) => Arc::new(limit),
                    None => continue,
                },
            };
            let list = if spec.requests.is_some() {
                &mut limits.requests
            } else if spec.connections.is_some() {
                &mut limits.connections
            } else {
                &mut limits.bytes
            };
            list.push(Arc::clone(&limit));
            limits.own.push(limit);
        }
        limits
    }
}

impl Limit {
    /// A limit that limits nothing was refused before it got here, and is left out.
    fn compile(policy: ObjectKey, index: usize, spec: &RateLimit) -> Option<Self> {
        let amount = spec.requests.or(spec.connections).or(spec.bytes)?;
        let per = spec.per.get();
        let rate = Rate::new(amount, per, spec.burst.unwrap_or(amount));
        let parts: Option<Vec<_>> = spec.by.iter().map(|it| Part::parse(it)).collect();
        let parts = parts?;
        let buckets = if parts.is_empty() {
            Buckets::One(Bucket::default())
        } else {
            let shard = || Mutex::new(Keyed::new(KEYS / SHARDS));
            Buckets::ByKey {
                parts,
                hasher: RandomState::new(),
                shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            }
        };
        let name = if index == 0 {
            policy.name.clone()
        } else {
            format!("{}-{index}", policy.name)
        };
        Some(Self {
            field: policy_field(&name, amount, per)?,
            name,
            amount,
            rate,
            patience_ns: match spec.mode {
                RateLimitMode::Refuse => 0,
                RateLimitMode::Smooth => spec.max_delay.as_nanos(),
            },
            buckets,
            spec: spec.clone(),
            policy,
        })
    }

    /// Takes one token of the caller's bucket.
    pub(crate) fn take(
        &self,
        now_ns: u64,
        caller: &Caller,
        fields: Option<Fields<'_>>,
    ) -> Result<Granted, Refused> {
        self.take_for(self.key(caller, fields), now_ns, 1, self.patience_ns)
    }

    /// Gives one token back.
    pub(crate) fn give_back(&self, caller: &Caller, fields: Option<Fields<'_>>) {
        match &self.buckets {
            Buckets::One(bucket) => bucket.give_back(&self.rate, 1),
            Buckets::ByKey { shards, .. } => {
                let key = self.key(caller, fields);
                if let Some(shard) = shards.get(shard(key)) {
                    let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                    shard.give_back(&self.rate, key, 1);
                }
            }
        }
    }

    /// Takes tokens for bytes that are about to be written, and tells how long they must wait.
    pub(crate) fn pace(&self, key: u64, bytes: u64) -> Duration {
        let granted = self.take_for(key, clock::monotonic_ns(), bytes, u64::MAX);
        Duration::from_nanos(granted.map_or(0, |granted| granted.delay_ns))
    }

    /// Bytes that are paced as one: those of 20 ms, so that a timer is set rarely, and nobody waits for long.
    pub(crate) fn piece(&self) -> usize {
        let bytes = (self.rate.per_second() / 50).clamp(1024, 64 * 1024);
        usize::try_from(bytes.min(self.rate.burst())).unwrap_or(1024)
    }

    /// What tells the caller's bucket from others.
    pub(crate) fn key(&self, caller: &Caller, fields: Option<Fields<'_>>) -> u64 {
        let Buckets::ByKey { parts, hasher, .. } = &self.buckets else {
            return 0;
        };
        let mut hasher = hasher.build_hasher();
        for part in parts {
            match part {
                Part::Workload => hasher.write_u32(caller.workload.number),
                Part::Identity => {
                    hasher.write(caller.workload.key.namespace.as_bytes());
                    hasher.write_u8(b'/');
                    hasher.write(caller.workload.service_account.as_bytes());
                }
                Part::Header(name) if *name == header::HOST => {
                    // Each host has one spelling, whatever the version of HTTP.
                    let authority = fields.and_then(|it| it.authority);
                    hasher.write(authority.unwrap_or_default().as_bytes());
                }
                Part::Header(name) => {
                    for value in fields.into_iter().flat_map(|it| it.headers.get_all(name)) {
                        hasher.write(value.as_bytes());
                        // No byte of a value.
                        hasher.write_u8(0);
                    }
                }
            }
            hasher.write_u8(0);
        }
        hasher.finish()
    }

    fn take_for(
        &self,
        key: u64,
        now_ns: u64,
        tokens: u64,
        patience_ns: u64,
    ) -> Result<Granted, Refused> {
        match &self.buckets {
            Buckets::One(bucket) => bucket.take(&self.rate, now_ns, tokens, patience_ns),
            Buckets::ByKey { shards, .. } => {
                let Some(shard) = shards.get(shard(key)) else {
                    return Err(Refused { retry_ns: 0 });
                };
                let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.take(&self.rate, key, now_ns, tokens, patience_ns)
            }
        }
    }
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "sourceWorkload" => Some(Self::Workload),
            "sourceIdentity" => Some(Self::Identity),
            _ => {
                let name = text.strip_prefix("header:")?;
                HeaderName::try_from(name).ok().map(Self::Header)
            }
        }
    }
}

/// The bits that the tables themselves use least.
fn shard(key: u64) -> usize {
    usize::try_from(key >> 32).unwrap_or(0) % SHARDS
}

/// `"NAME";q=AMOUNT;w=SECONDS`; a window shorter than a second is told as one of a second.
fn policy_field(name: &str, amount: u64, per: Duration) -> Option<HeaderValue> {
    let second = nanos(Duration::from_secs(1));
    let per_ns = nanos(per).max(1);
    let (quota, window) = if per_ns < second {
        let quota = u128::from(amount) * u128::from(second) / u128::from(per_ns);
        (u64::try_from(quota).unwrap_or(u64::MAX), 1)
    } else {
        (amount, per_ns.div_ceil(second))
    };
    HeaderValue::try_from(format!("\"{name}\";q={quota};w={window}")).ok()
}

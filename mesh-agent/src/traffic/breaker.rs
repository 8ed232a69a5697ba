//! Circuit breaker: closed (traffic flows), open (nothing does), half-open (few try). One word, shared by all cores.
//!
//! The pattern is Nygard's ("Release It!", 2007). What a request found when it was let through, it brings back with its
//! outcome, so that answers from before an opening say nothing about what came after.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::state::traffic_policy::resilience::FailureBreaker;

/// When a breaker opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open it; at least 1.
    pub consecutive: u32,
    /// How long it is open, in milliseconds.
    pub open_for_ms: u64,
    /// Requests that try at a time while it is half-open, and successes that close it; at least 1.
    pub half_open_requests: u32,
}

impl From<&FailureBreaker> for Settings {
    fn from(spec: &FailureBreaker) -> Self {
        let millis = spec.open_for.get().as_millis();
        Self {
            consecutive: spec.consecutive.max(1),
            open_for_ms: u64::try_from(millis).unwrap_or(u64::MAX).min(PAYLOAD / 2),
            half_open_requests: spec.half_open_requests.clamp(1, HALF_MAX),
        }
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Everything.
    Closed,
    /// A few requests, to see.
    HalfOpen,
    /// Nothing.
    Open,
}

impl State {
    /// The word in reports and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }

    /// The number in `mesh_breaker_state`: 0 closed, 1 half-open, 2 open.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

/// The right to send one request. To be given back by [`Breaker::ended`], whatever became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    era: u64,
    /// Whether the request is one of the few that try.
    is_probe: bool,
}

/// What a request says about what stands behind the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It works.
    Success,
    /// It does not.
    Failure,
    /// Nothing: the client went away, or nothing was sent.
    Nothing,
}

/// A breaker. Time is nanoseconds on a clock that only runs forwards.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    /// 2 bits of state, 14 of era (one more at each change), 48 of payload: failures in a row while closed, the end in
    /// milliseconds while open, requests that try and successes (24 bits each) while half-open.
    word: AtomicU64,
    since_ns: AtomicU64,
    openings: AtomicU64,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub const fn new(settings: Settings, now_ns: u64) -> Self {
        Self {
            settings,
            word: AtomicU64::new(0),
            since_ns: AtomicU64::new(now_ns),
            openings: AtomicU64::new(0),
        }
    }

    /// What it was made of.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// How it is. One whose time is up counts as open until the first request tries.
    #[must_use]
    pub fn state(&self) -> State {
        Word::unpack(self.word.load(Ordering::Relaxed))
            .phase
            .state()
    }

    /// When the state last changed.
    #[must_use]
    pub fn since_ns(&self) -> u64 {
        self.since_ns.load(Ordering::Relaxed)
    }

    /// How often it has opened.
    #[must_use]
    pub fn openings(&self) -> u64 {
        self.openings.load(Ordering::Relaxed)
    }

    /// Whether it would refuse a request now.
    #[must_use]
    pub fn refuses(&self, now_ns: u64) -> bool {
        match Word::unpack(self.word.load(Ordering::Relaxed)).phase {
            Phase::Closed { .. } => false,
            Phase::Open { until_ms } => now_ns / MILLI < until_ms,
            Phase::HalfOpen { trying, .. } => trying >= self.settings.half_open_requests,
        }
    }

    /// Lets a request through, or not. The second part is the state that this has brought about, if it is another.
    pub fn pass(&self, now_ns: u64) -> (Option<Pass>, Option<State>) {
        let (old, new) = self.update(|word| word.passed(&self.settings, now_ns / MILLI));
        let change = self.note(old, new, now_ns);
        let pass = match (old.phase, new.phase) {
            (Phase::Closed { .. }, _) => Some(Pass {
                era: new.era,
                is_probe: false,
            }),
            (before, after @ Phase::HalfOpen { .. }) if before != after => Some(Pass {
                era: new.era,
                is_probe: true,
            }),
            _ => None,
        };
        (pass, change)
    }

    /// A request that was let through has ended. Tells the state that this has brought about, if it is another.
    pub fn ended(&self, pass: Pass, evidence: Evidence, now_ns: u64) -> Option<State> {
        let (old, new) =
            self.update(|word| word.ended(&self.settings, pass, evidence, now_ns / MILLI));
        self.note(old, new, now_ns)
    }

    fn update(&self, change: impl Fn(Word) -> Word) -> (Word, Word) {
        let mut old = self.word.load(Ordering::Relaxed);
        loop {
            let before = Word::unpack(old);
            let after = change(before);
            let new = after.pack();
            // The usual success changes nothing, and costs no write.
            if new == old {
                return (before, after);
            }
            match self
                .word
                .compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return (before, after),
                Err(seen) => old = seen,
            }
        }
    }

    fn note(&self, old: Word, new: Word, now_ns: u64) -> Option<State> {
        let state = new.phase.state();
        if state == old.phase.state() {
            return None;
        }
        self.since_ns.store(now_ns, Ordering::Relaxed);
        if state == State::Open {
            self.openings.fetch_add(1, Ordering::Relaxed);
        }
        Some(state)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed { failures: u32 },
    Open { until_ms: u64 },
    HalfOpen { trying: u32, succeeded: u32 },
}

impl Phase {
    const fn state(self) -> State {
        match self {
            Self::Closed { .. } => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

/// What one word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    era: u64,
    phase: Phase,
}

impl Word {
    /// The transition when a request wants to pass.
    fn passed(self, settings: &Settings, now_ms: u64) -> Self {
        match self.phase {
            Phase::Open { until_ms } if now_ms >= until_ms => self.changed(Phase::HalfOpen {
                trying: 1,
                succeeded: 0,
            }),
            Phase::HalfOpen { trying, succeeded } if trying < settings.half_open_requests => self
                .with(Phase::HalfOpen {
                    trying: trying + 1,
                    succeeded,
                }),
            Phase::Closed { .. } | Phase::Open { .. } | Phase::HalfOpen { .. } => self,
        }
    }

    /// The transition when a request has ended.
    fn ended(self, settings: &Settings, pass: Pass, evidence: Evidence, now_ms: u64) -> Self {
        if pass.era != self.era {
            return self;
        }
        let opened = || {
            self.changed(Phase::Open {
                until_ms: now_ms.saturating_add(settings.open_for_ms) & PAYLOAD,
            })
        };
        match (self.phase, evidence) {
            (Phase::Closed { .. }, Evidence::Success) => self.with(Phase::Closed { failures: 0 }),
            (Phase::Closed { failures }, Evidence::Failure) => {
                let failures = failures.saturating_add(1);
                if failures >= settings.consecutive {
                    opened()
                } else {
                    self.with(Phase::Closed { failures })
                }
            }
            (Phase::HalfOpen { trying, succeeded }, _) if pass.is_probe => match evidence {
                Evidence::Failure => opened(),
                Evidence::Success if succeeded + 1 >= settings.half_open_requests => {
                    self.changed(Phase::Closed { failures: 0 })
                }
                Evidence::Success => self.with(Phase::HalfOpen {
                    trying: trying.saturating_sub(1),
                    succeeded: succeeded + 1,
                }),
                Evidence::Nothing => self.with(Phase::HalfOpen {
                    trying: trying.saturating_sub(1),
                    succeeded,
                }),
            },
            _ => self,
        }
    }

    const fn with(self, phase: Phase) -> Self {
        Self { phase, ..self }
    }

    const fn changed(self, phase: Phase) -> Self {
        Self {
            era: (self.era + 1) & ERA,
            phase,
        }
    }

    fn pack(self) -> u64 {
        let (tag, payload) = match self.phase {
            Phase::Closed { failures } => (0, u64::from(failures)),
            Phase::Open { until_ms } => (1, until_ms & PAYLOAD),
            Phase::HalfOpen { trying, succeeded } => {
                (2, (u64::from(trying) << 24) | u64::from(succeeded))
            }
        };
        (tag << 62) | (self.era << 48) | payload
    }

    fn unpack(word: u64) -> Self {
        let payload = word & PAYLOAD;
        let low = |bits: u64| u32::try_from(bits & u64::from(HALF_MAX)).unwrap_or(0);
        let phase = match word >> 62 {
            0 => Phase::Closed {
                failures: u32::try_from(payload).unwrap_or(u32::MAX),
            },
            1 => Phase::Open { until_ms: payload },
            _ => Phase::HalfOpen {
                trying: low(payload >> 24),
                succeeded: low(payload),
            },
        };
        Self {
            era: (word >> 48) & ERA,
            phase,
        }
    }
}

const MILLI: u64 = 1_000_000;
const PAYLOAD: u64 = (1 << 48) - 1;
const ERA: u64 = (1 << 14) - 1;
const HALF_MAX: u32 = (1 << 24) - 1;

#[cfg(test)]
mod tests;

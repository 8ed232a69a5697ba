//! Breakers as their users meet them: limits, failures, and who may try.

use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn breaker(consecutive: u32, half_open_requests: u32) -> Breaker {
    let settings = Settings {
        consecutive,
        open_for_ms: 10_000,
        half_open_requests,
    };
    Breaker::new(settings, 0)
}

fn once(breaker: &Breaker, evidence: Evidence, now_ns: u64) -> Option<State> {
    let (pass, _) = breaker.pass(now_ns);
    breaker.ended(pass.expect("let through"), evidence, now_ns)
}

#[test]
fn so_many_failures_in_a_row_open_it() {
    let breaker = breaker(3, 1);
    for evidence in [Evidence::Failure, Evidence::Failure, Evidence::Success] {
        assert_eq!(once(&breaker, evidence, 0), None);
    }
    assert_eq!(once(&breaker, Evidence::Failure, 1), None);
    assert_eq!(once(&breaker, Evidence::Nothing, 1), None);
    assert_eq!(once(&breaker, Evidence::Failure, 1), None);
    assert_eq!(once(&breaker, Evidence::Failure, 2), Some(State::Open));
    assert_eq!((breaker.openings(), breaker.since_ns()), (1, 2));
    assert_eq!(breaker.pass(9 * SECOND), (None, None));
    assert!(breaker.refuses(9 * SECOND) && !breaker.refuses(11 * SECOND));
}

#[test]
fn few_try_when_the_time_is_up_and_all_must_succeed() {
    let breaker = breaker(1, 2);
    once(&breaker, Evidence::Failure, 0);
    let (first, change) = breaker.pass(10 * SECOND);
    assert_eq!(change, Some(State::HalfOpen));
    let (second, change) = breaker.pass(10 * SECOND);
    assert_eq!(change, None);
    assert_eq!(breaker.pass(10 * SECOND), (None, None), "two at a time");
    assert!(breaker.refuses(10 * SECOND));
    let success = |pass: Option<Pass>| breaker.ended(pass.unwrap(), Evidence::Success, 11 * SECOND);
    assert_eq!(success(first), None);
    assert_eq!(success(second), Some(State::Closed));
}

#[test]
fn one_failure_opens_it_again_and_the_others_say_no_more() {
    let breaker = breaker(1, 2);
    once(&breaker, Evidence::Failure, 0);
    let (first, _) = breaker.pass(10 * SECOND);
    let (second, _) = breaker.pass(10 * SECOND);
    let bad = breaker.ended(first.unwrap(), Evidence::Failure, 11 * SECOND);
    assert_eq!((bad, breaker.openings()), (Some(State::Open), 2));
    let late = breaker.ended(second.unwrap(), Evidence::Success, 12 * SECOND);
    assert_eq!((late, breaker.state()), (None, State::Open));
    assert!(breaker.refuses(20 * SECOND) && !breaker.refuses(21 * SECOND));
}

#[test]
fn answers_from_before_an_opening_do_not_count_after() {
    let breaker = breaker(1, 1);
    let (slow, _) = breaker.pass(0);
    once(&breaker, Evidence::Failure, 0);
    let (probe, _) = breaker.pass(10 * SECOND);
    assert_eq!(
        breaker.ended(slow.unwrap(), Evidence::Failure, 10 * SECOND),
        None
    );
    assert_eq!(
        breaker.ended(probe.unwrap(), Evidence::Success, 10 * SECOND),
        Some(State::Closed)
    );
}

#[test]
fn a_probe_that_is_given_up_makes_room_for_another() {
    let breaker = breaker(1, 1);
    once(&breaker, Evidence::Failure, 0);
    let (probe, _) = breaker.pass(10 * SECOND);
    assert_eq!(breaker.pass(10 * SECOND).0, None);
    breaker.ended(probe.unwrap(), Evidence::Nothing, 10 * SECOND);
    assert!(breaker.pass(10 * SECOND).0.is_some());
}

/// The same, written without regard to words and races.
#[derive(Debug, Default)]
struct Model {
    failures: u32,
    open_until: Option<u64>,
    half: Option<(Vec<usize>, u32)>,
    era: u32,
}

proptest! {
    #[test]
    fn it_behaves_like_the_model(
        steps in prop::collection::vec((0_u8..4, 0_usize..8, 0_u64..6), 1..200),
        consecutive in 1_u32..4,
        half_open in 1_u32..4,
    ) {
        let breaker = breaker(consecutive, half_open);
        let mut model = Model::default();
        let mut held: Vec<(usize, u32, Pass)> = Vec::new();
        let (mut now, mut next) = (0, 0);
        for (what, which, pause) in steps {
            now += pause * SECOND;
            if what == 0 || held.is_empty() {
                let expected = model.pass(next, now, half_open);
                let (pass, _) = breaker.pass(now);
                prop_assert_eq!(pass.is_some(), expected);
                held.extend(pass.map(|pass| (next, model.era, pass)));
                next += 1;
            } else {
                let (number, era, pass) = held.swap_remove(which % held.len());
                let evidence = [Evidence::Success, Evidence::Failure, Evidence::Nothing][usize::from(what) - 1];
                breaker.ended(pass, evidence, now);
                if era == model.era {
                    model.ended(number, evidence, now, consecutive, half_open);
                }
            }
            prop_assert_eq!(breaker.state(), model.state());
        }
    }
}

impl Model {
    fn state(&self) -> State {
        match (&self.half, self.open_until) {
            (Some(_), _) => State::HalfOpen,
            (None, Some(_)) => State::Open,
            (None, None) => State::Closed,
        }
    }

    fn pass(&mut self, number: usize, now: u64, half_open: u32) -> bool {
        if self.open_until.is_some_and(|until| now >= until) {
            self.open_until = None;
            self.half = Some((Vec::new(), 0));
            self.era += 1;
        }
        if self.open_until.is_some() {
            return false;
        }
        let Some((trying, _)) = &mut self.half else {
            return true;
        };
        let has_room = trying.len() < half_open as usize;
        if has_room {
            trying.push(number);
        }
        has_room
    }

    fn ended(
        &mut self,
        number: usize,
        evidence: Evidence,
        now: u64,
        consecutive: u32,
        half_open: u32,
    ) {
        if let Some((trying, succeeded)) = &mut self.half {
            trying.retain(|it| *it != number);
            match evidence {
                Evidence::Success => *succeeded += 1,
                Evidence::Failure => return self.open(now),
                Evidence::Nothing => {}
            }
            if *succeeded == half_open {
                *self = Self {
                    era: self.era + 1,
                    ..Self::default()
                };
            }
            return;
        }
        match evidence {
            Evidence::Success => self.failures = 0,
            Evidence::Failure => self.failures += 1,
            Evidence::Nothing => {}
        }
        if self.failures == consecutive {
            self.open(now);
        }
    }

    fn open(&mut self, now: u64) {
        *self = Self {
            open_until: Some(now + 10 * SECOND),
            era: self.era + 1,
            ..Self::default()
        };
    }
}

//! What is tried again, and that it never becomes a storm.

use super::budget::{Budget, Extra};
use super::*;
use crate::state::traffic_policy::resilience;

const fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, grpc: None }
}

const fn grpc(code: u8) -> Outcome {
    Outcome::Answered {
        status: 200,
        grpc: Some(code),
    }
}

fn plan(on: &[&str]) -> Plan {
    let spec = serde_json::json!({"attempts": 2, "on": on});
    Plan::new(&serde_json::from_value(spec).unwrap())
}

#[test]
fn each_word_means_what_it_says() {
    let check = |word: &str, yes: &[Outcome], no: &[Outcome]| {
        let plan = plan(&[word]);
        for outcome in yes {
            assert!(plan.wants(*outcome, true), "{word} {outcome:?}");
        }
        for outcome in no {
            assert!(!plan.wants(*outcome, true), "{word} {outcome:?}");
        }
    };
    let connect = Outcome::ConnectFailure;
    check(
        "5xx",
        &[answered(500), answered(503), answered(599)],
        &[answered(200), answered(429), connect],
    );
    check(
        "gateway-error",
        &[answered(502), answered(503), answered(504)],
        &[answered(500), answered(505)],
    );
    check("retriable-4xx", &[answered(409)], &[answered(404)]);
    check("418", &[answered(418)], &[answered(419)]);
    check("connect-failure", &[connect], &[Outcome::Reset]);
    check("reset", &[Outcome::Reset], &[Outcome::RefusedStream]);
    check("refused-stream", &[Outcome::RefusedStream], &[connect]);
    check("timeout", &[Outcome::Timeout], &[answered(504)]);
    check(
        "grpc:UNAVAILABLE",
        &[grpc(14)],
        &[grpc(13), grpc(0), answered(200)],
    );
}

#[test]
fn what_is_not_idempotent_is_repeated_only_unseen_or_by_a_named_code() {
    let plan = plan(&[
        "5xx",
        "connect-failure",
        "reset",
        "refused-stream",
        "timeout",
        "grpc:ABORTED",
    ]);
    for unseen in [Outcome::ConnectFailure, Outcome::RefusedStream, grpc(10)] {
        assert!(plan.wants(unseen, false), "{unseen:?}");
    }
    for seen in [answered(503), Outcome::Reset, Outcome::Timeout] {
        assert!(!plan.wants(seen, false), "{seen:?}");
        assert!(plan.wants(seen, true), "{seen:?}");
    }
}

#[test]
fn the_wait_doubles_up_to_a_limit_and_is_anything_below() {
    let backoff = Backoff {
        least: Duration::ZERO,
        base: Duration::from_millis(25),
        max: Duration::from_millis(250),
    };
    let longest = |repetition| backoff.wait(repetition, u32::MAX).as_millis();
    assert_eq!(
        [0, 1, 2, 3, 4, 40].map(longest),
        [25, 50, 100, 200, 250, 250]
    );
    assert_eq!(backoff.wait(3, 0), Duration::ZERO);
    assert_eq!(backoff.wait(2, u32::MAX / 2).as_millis(), 50);
}

#[test]
fn a_rule_of_a_route_says_what_it_says_and_leaves_the_rest() {
    let rule = |spec| serde_json::from_value::<HttpRouteRetry>(spec).unwrap();
    let base = plan(&["5xx"]);
    let own = Plan::of_rule(
        Some(&base),
        &rule(serde_json::json!({"codes": [503], "backoff": "100ms"})),
    );
    assert_eq!((own.attempts, own.max_body_bytes), (1, base.max_body_bytes));
    assert!(own.wants(answered(503), true) && !own.wants(answered(500), true));
    for broken in [Outcome::Reset, Outcome::Timeout] {
        assert!(
            own.wants(broken, true) && !own.wants(broken, false),
            "{broken:?}"
        );
    }
    assert_eq!(own.backoff.wait(0, 0).as_millis(), 100);
    assert_eq!(own.backoff.wait(9, u32::MAX).as_millis(), 1100);
    let kept = Plan::of_rule(Some(&base), &rule(serde_json::json!({"attempts": 4})));
    assert!(kept.attempts == 4 && kept.wants(answered(500), true));
}

#[test]
fn codes_of_foreign_answers_are_those_that_clients_read() {
    assert_eq!(
        [400, 401, 403, 404, 429, 503, 500, 418].map(grpc_code_of),
        [13, 16, 7, 12, 14, 14, 2, 2]
    );
}

/// Attempts per request when every attempt fails, for `rate` requests a second over `seconds`.
fn storm(attempts: u32, rate: u64, seconds: u64) -> f64 {
    let budget = Budget::new(resilience::Budget::default());
    let (mut requests, mut sent) = (0_u32, 0_u32);
    for number in 0..rate * seconds {
        let now = number * 1_000_000_000 / rate;
        budget.request(now);
        requests += 1;
        sent += 1;
        for _ in 0..attempts {
            if !budget.take(Extra::Retry, now) {
                break;
            }
            sent += 1;
        }
    }
    f64::from(sent) / f64::from(requests)
}

#[test]
fn a_retry_storm_is_impossible() {
    for attempts in [1, 2, 10] {
        for (rate, seconds) in [(50, 60), (100, 1), (100, 60), (1000, 30), (20_000, 15)] {
            let ratio = storm(attempts, rate, seconds);
            assert!(ratio < 1.25, "{attempts} at {rate}/s: {ratio}");
            assert!(ratio > 1.15, "{attempts} at {rate}/s: {ratio}");
        }
    }
}

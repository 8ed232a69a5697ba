//! Endpoints that answer badly, and how many of them may be put aside.

use serde_json::{Value, json};

use super::*;

const fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, grpc: None }
}

fn spec(spec: Value) -> OutlierDetection {
    serde_json::from_value(spec).unwrap()
}

/// The place of the outcome by which each reason is reached.
fn reached(rule: Value, outcomes: &[Outcome]) -> Option<(usize, Reason)> {
    let (rule, counters) = (spec(rule), Counters::default());
    let mut observed = outcomes.iter().enumerate();
    observed.find_map(|(place, outcome)| Some((place, counters.observe(&rule, *outcome)?)))
}

#[test]
fn failures_count_in_a_row() {
    let rule = json!({"consecutive5xx": 3});
    let bad = [answered(500), Outcome::Timeout, answered(503)];
    assert_eq!(
        reached(rule.clone(), &bad),
        Some((2, Reason::Consecutive5xx))
    );
    let broken = [
        answered(500),
        answered(500),
        answered(404),
        answered(500),
        answered(500),
    ];
    assert_eq!(reached(rule, &broken), None);
}

#[test]
fn a_refused_stream_is_no_answer() {
    let rule = json!({"consecutive5xx": 3, "failurePercentage": {}});
    let bad = [
        answered(500),
        Outcome::RefusedStream,
        answered(500),
        Outcome::RefusedStream,
        answered(500),
    ];
    assert_eq!(
        reached(rule.clone(), &bad),
        Some((4, Reason::Consecutive5xx))
    );
    let counters = Counters::default();
    counters.observe(&spec(rule), Outcome::RefusedStream);
    assert_eq!(counters.take(), Window::default());
}

#[test]
fn each_kind_has_a_row_of_its_own() {
    let gateway = json!({"consecutiveGatewayErrors": 2});
    let local = json!({"consecutiveLocalFailures": 2});
    let mixed = [answered(503), answered(500), Outcome::Reset, answered(502)];
    assert_eq!(
        reached(gateway, &mixed),
        Some((3, Reason::ConsecutiveGatewayErrors))
    );
    assert_eq!(reached(local.clone(), &mixed), None);
    let silent = [Outcome::ConnectFailure, Outcome::Timeout];
    assert_eq!(
        reached(local, &silent),
        Some((1, Reason::ConsecutiveLocalFailures))
    );
    assert_eq!(
        reached(json!({}), &[answered(500); 100]),
        None,
        "no threshold"
    );
}

#[test]
fn codes_of_grpc_that_blame_the_server_are_failures() {
    let unavailable = Outcome::Answered {
        status: 200,
        grpc: Some(14),
    };
    let not_found = Outcome::Answered {
        status: 200,
        grpc: Some(5),
    };
    let rule = json!({"consecutive5xx": 2});
    assert_eq!(
        reached(rule.clone(), &[unavailable; 2]),
        Some((1, Reason::Consecutive5xx))
    );
    assert_eq!(reached(rule, &[not_found; 9]), None);
}

#[test]
fn a_share_at_most_is_out_but_one_in_any_case_of_two() {
    let most = |endpoints, percent| {
        (0..endpoints)
            .take_while(|ejected| has_room(endpoints, *ejected, percent))
            .count()
    };
    assert_eq!(
        [1, 2, 3, 4, 10].map(|endpoints| most(endpoints, 50)),
        [0, 1, 1, 2, 5]
    );
    assert_eq!([most(3, 10), most(10, 100), most(3, 0)], [1, 10, 0]);
}

#[test]
fn an_endpoint_far_below_the_others_is_found() {
    let rule = spec(
        json!({"successRate": {"minimumEndpoints": 5, "minimumRequests": 100, "deviationThousandths": 1900}}),
    );
    let window = |good| Window {
        requests: 100,
        good,
    };
    let mut windows = vec![
        window(100),
        window(99),
        window(98),
        window(100),
        window(99),
        window(60),
    ];
    assert_eq!(judge(&rule, &windows), [(5, Reason::SuccessRate)]);
    // All alike bad: nobody stands out.
    assert_eq!(judge(&rule, &[window(50); 6]), []);
    // Too few requests, too few endpoints.
    windows[5] = Window {
        requests: 99,
        good: 0,
    };
    assert_eq!(judge(&rule, &windows), []);
    assert_eq!(judge(&rule, &windows[..4]), []);
}

#[test]
fn an_endpoint_that_mostly_fails_is_found_the_worst_first() {
    let rule = spec(
        json!({"failurePercentage": {"threshold": 85, "minimumEndpoints": 3, "minimumRequests": 10}}),
    );
    let window = |good| Window { requests: 20, good };
    let found = judge(&rule, &[window(3), window(20), window(4), window(0)]);
    let wanted = [
        (3, Reason::FailurePercentage),
        (0, Reason::FailurePercentage),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn a_window_is_counted_only_where_a_share_is_looked_at() {
    let counters = Counters::default();
    counters.observe(&spec(json!({"consecutive5xx": 3})), answered(200));
    assert_eq!(counters.take(), Window::default());
    let rule = spec(json!({"failurePercentage": {}}));
    counters.observe(&rule, answered(200));
    counters.observe(&rule, answered(503));
    assert_eq!(
        counters.take(),
        Window {
            requests: 2,
            good: 1
        }
    );
    assert_eq!(counters.take(), Window::default());
}

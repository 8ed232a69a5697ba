//! What is laid out for routes, and how long it is kept.

use serde_json::json;

use super::*;
use crate::proxy::view::{ServicePort, View};
use crate::state::Snapshot;
use crate::state::object::ObjectKey;
use crate::traffic::balance::hash::Dice;
use crate::traffic::balance::latency::Latency;
use crate::traffic::balance::pool::Trust;
use crate::traffic::balance::slow_start::FULL;
use crate::traffic::balance::tier::{Ask, Fleet};
use crate::traffic::fixture::Fixture;

/// All are well, and have nothing to do.
struct Idle;

impl Fleet for Idle {
    fn is_open(&self, _index: u32) -> bool {
        true
    }

    fn is_well(&self, _index: u32) -> bool {
        true
    }

    fn weight(&self, _index: u32) -> u32 {
        1
    }

    fn active(&self, _index: u32) -> u32 {
        0
    }

    fn latency(&self, _index: u32) -> Option<&Latency> {
        None
    }

    fn grown(&self, _index: u32) -> u32 {
        FULL
    }
}

/// Two endpoints that are taken in turn.
fn snapshot() -> Snapshot {
    let service = json!({"addresses": ["240.240.0.1"], "balancing": "RoundRobin",
        "ports": [{"name": "main", "port": 80}]});
    let endpoint = |last| json!({"service": "web", "address": format!("10.0.0.{last}")});
    Fixture::default()
        .service("web", &service)
        .endpoint("web-0", &["main"], &endpoint(1))
        .endpoint("web-1", &["main"], &endpoint(2))
        .snapshot()
}

fn port(view: &View) -> &Arc<ServicePort> {
    let port = view.port_of(&ObjectKey::new("shop", "web"), 80);
    port.expect("it is there")
}

/// What one policy wants: all endpoints.
fn wanted() -> Subsets {
    Arc::new(vec![serde_json::from_value(json!({})).expect("a subset")])
}

/// Who takes the next request of a route.
fn next(port: &ServicePort, wanted: &Subsets) -> u32 {
    let mut ask = Ask {
        hash: None,
        dice: Dice::new(1),
        now_ns: 1,
    };
    let plans = port.layouts.of_route(wanted, &port.endpoints);
    let picked = plans[0].pick(&mut ask, &Idle, Trust::Well);
    picked.expect("somebody").index
}

#[test]
fn many_routes_that_want_a_part_take_turns_each() {
    let mut snapshot = snapshot();
    let mut view = View::default().next(&snapshot);
    let routes: Vec<Subsets> = (0..40).map(|_| wanted()).collect();
    for _ in 0..3 {
        let all = |view: &View| -> Vec<u32> {
            let picked = routes.iter().map(|wanted| next(port(view), wanted));
            picked.collect()
        };
        let (first, second) = (all(&view), all(&view));
        assert!(first.iter().zip(&second).all(|(a, b)| a != b));
        // Turns go on when the endpoints are laid out anew, also of those who miss a view.
        for _ in 0..2 {
            let endpoint = snapshot.endpoints.get_mut(&ObjectKey::new("shop", "web-1"));
            let endpoint = Arc::make_mut(endpoint.expect("it is there"));
            endpoint.metadata.generation += 1;
            let after = view.next(&snapshot);
            assert!(!Arc::ptr_eq(port(&view), port(&after)));
            view = after;
        }
        assert_eq!(all(&view), first);
        assert_eq!(all(&view), second);
        next(port(&view), &routes[0]);
        assert_eq!(next(port(&view), &routes[0]), second[0]);
    }
}

#[test]
fn what_no_policy_wants_any_more_is_forgotten() {
    let snapshot = snapshot();
    let view = View::default().next(&snapshot);
    let kept = wanted();
    next(port(&view), &kept);
    for _ in 0..100 {
        next(port(&view), &wanted());
    }
    let layouts = &port(&view).layouts;
    assert!(layouts.of_routes.load().len() <= 4);
    assert_eq!(layouts.so_far().len(), 1);
}

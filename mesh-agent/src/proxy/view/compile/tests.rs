//! What is compiled anew, what stays, and that nothing is missed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;
use crate::proxy::metrics::{Ends, Series};
use crate::proxy::select;
use crate::proxy::view::Active;
use crate::state::resource::Resource;
use crate::state::{Change, Store, decode};
use crate::traffic::balance::streams::PERIOD_NS;
use crate::traffic::fixture::Fixture;

fn service(number: u8) -> Value {
    let ports = json!([{"name": "main", "port": 80}, {"name": "other", "port": 81}]);
    json!({"addresses": [format!("240.240.0.{number}")], "ports": ports})
}

fn snapshot() -> Snapshot {
    Fixture::default()
        .service("web", &service(1))
        .service("cache", &service(2))
        .workload("server", &json!({"netns": "/n", "addresses": ["10.0.0.3"]}))
        .endpoint(
            "web-0",
            &["main", "other"],
            &json!({"service": "web", "address": "10.0.0.3"}),
        )
        .endpoint(
            "cache-0",
            &["main", "other"],
            &json!({"service": "cache", "address": "10.0.0.4"}),
        )
        .snapshot()
}

fn port(view: &View, number: u8) -> &Arc<ServicePort> {
    let dialled = SocketAddr::from(([240, 240, 0, number], 80));
    view.port(&dialled.into()).expect("it is there")
}

/// Puts another version in the place of an object, as a write does.
fn write<R: Resource>(objects: &mut crate::state::Objects<R>, name: &str) {
    let object = objects.get_mut(&ObjectKey::new("shop", name));
    let object = Arc::make_mut(object.expect("it is there"));
    object.metadata_mut().generation += 1;
}

/// Whether the ports of `web` and `cache` are the same after a change.
fn kept(change: impl FnOnce(&mut Snapshot)) -> [bool; 2] {
    let mut snapshot = snapshot();
    let before = View::default().next(&snapshot);
    change(&mut snapshot);
    let after = before.next(&snapshot);
    assert_eq!(after.lives.len(), before.lives.len());
    [1, 2].map(|number| Arc::ptr_eq(port(&before, number), port(&after, number)))
}

#[test]
fn a_port_is_compiled_anew_only_if_what_it_is_made_of_has_changed() {
    assert_eq!(kept(|_| ()), [true, true]);
    assert_eq!(kept(|s| write(&mut s.services, "web")), [false, true]);
    assert_eq!(kept(|s| write(&mut s.endpoints, "cache-0")), [true, false]);
    assert_eq!(kept(|s| write(&mut s.workloads, "server")), [false, true]);
}

#[test]
fn a_port_whose_endpoint_is_gone_is_compiled_anew_and_remembers() {
    let mut snapshot = snapshot();
    let before = View::default().next(&snapshot);
    snapshot.endpoints.remove(&ObjectKey::new("shop", "web-0"));
    let after = before.next(&snapshot);
    assert!(port(&after, 1).endpoints.is_empty());
    assert!(Arc::ptr_eq(
        &port(&before, 1).memory,
        &port(&after, 1).memory
    ));
    assert!(Arc::ptr_eq(port(&before, 2), port(&after, 2)));
}

#[test]
fn a_caller_that_is_gone_holds_no_series() {
    let mut snapshot = snapshot();
    let server = ObjectKey::new("shop", "server");
    let number = snapshot.ids.number(&Subject::Workload(server.clone()));
    let before = View::default().next(&snapshot);
    let metrics = crate::proxy::metrics::register(&mut crate::metrics::Registry::new());
    let endpoint = Arc::clone(&port(&before, 2).endpoints[0]);
    let make = || Series::new(&metrics, Ends::unknown());
    let caller = before.workload(number).expect("it is there");
    let known = Arc::downgrade(&endpoint.series(caller, make));
    let unknown = Arc::downgrade(&endpoint.series(&Workload::stranger(), make));
    snapshot.workloads.remove(&server);
    let _after = before.next(&snapshot);
    assert!(known.upgrade().is_none() && unknown.upgrade().is_some());
}

#[test]
fn series_with_labels_of_before_are_let_go() {
    type Step = fn(&mut Snapshot);
    let mut snapshot = snapshot();
    let server = ObjectKey::new("shop", "server");
    let number = snapshot.ids.number(&Subject::Workload(server));
    let metrics = crate::proxy::metrics::register(&mut crate::metrics::Registry::new());
    let mut view = View::default().next(&snapshot);
    let series = |view: &View, index| {
        let port = port(view, index);
        let caller = view.workload(number).expect("it is there");
        let endpoint = Some(&*port.endpoints[0]);
        [endpoint, None].map(|it| select::series(&metrics, caller, port, it))
    };
    // What changes, and whether the series to web-0, which the workload is, and to cache-0 are others then.
    let steps: [(Step, [bool; 2]); 4] = [
        (|s| write(&mut s.workloads, "server"), [false, false]),
        (|s| write(&mut s.endpoints, "web-0"), [false, false]),
        (
            |s| {
                let web = s.endpoints.get_mut(&ObjectKey::new("shop", "web-0"));
                Arc::make_mut(web.unwrap()).spec.version = Some("v2".to_owned());
            },
            [true, false],
        ),
        (
            |s| {
                let server = s.workloads.get_mut(&ObjectKey::new("shop", "server"));
                let labels = &mut Arc::make_mut(server.unwrap()).metadata.labels;
                labels.insert("version".to_owned(), "v3".to_owned());
            },
            [true, true],
        ),
    ];
    for (step, (change, are_others)) in steps.into_iter().enumerate() {
        let before = [1, 2].map(|index| series(&view, index));
        change(&mut snapshot);
        view = view.next(&snapshot);
        let after = [1, 2].map(|index| series(&view, index));
        for (index, is_another) in are_others.into_iter().enumerate() {
            let is_same = Arc::ptr_eq(&before[index][0], &after[index][0]);
            assert_eq!(!is_same, is_another, "step {step}, service {index}");
        }
        let is_same = Arc::ptr_eq(&before[0][1], &after[0][1]);
        assert_eq!(is_same, !are_others[1], "without an endpoint, step {step}");
        if are_others[0] {
            let held = Arc::downgrade(&before[0][0]);
            drop(before);
            assert!(held.upgrade().is_none(), "kept by nobody, step {step}");
        }
    }
}

#[test]
fn ports_of_one_service_are_not_taken_for_each_other() {
    let snapshot = snapshot();
    let before = View::default().next(&snapshot);
    let after = before.next(&snapshot);
    let other = SocketAddr::from(([240, 240, 0, 1], 81)).into();
    let other = after.port(&other).expect("it is there");
    assert_ne!(other.number, port(&after, 1).number);
}

#[test]
fn what_is_usual_at_one_port_says_nothing_of_another() {
    let view = View::default().next(&snapshot());
    let answers = [(1, 10), (2, 100)];
    for (number, millis) in answers {
        for _ in 0..100 {
            let vitals = &port(&view, number).endpoints[0].live.vitals;
            vitals.observe(Duration::from_millis(millis));
        }
    }
    for (number, millis) in answers {
        let usual = port(&view, number)
            .usual(950, 1 << 40)
            .expect("it is known");
        assert!(usual.as_millis().abs_diff(millis.into()) <= u128::from(millis / 8));
    }
}

#[test]
fn a_response_that_goes_on_stops_counting_as_load() {
    let view = View::default().next(&snapshot());
    let endpoint = &port(&view, 1).endpoints[0];
    let load = |now_ns| endpoint.live.load(now_ns);
    let mut stream = Active::new(Arc::clone(endpoint), 0);
    let waiting = Active::new(Arc::clone(endpoint), 0);
    stream.answered(1);
    stream.answered(2);
    assert_eq!(load(PERIOD_NS), 2);
    // However long a response is waited for, the endpoint is busy.
    assert_eq!(load(3 * PERIOD_NS), 1);
    drop(stream);
    assert_eq!(load(3 * PERIOD_NS), 1);
    drop(waiting);
    assert_eq!(load(0), 0);
}

#[test]
fn an_endpoint_that_came_or_recovered_is_new() {
    let mut snapshot = snapshot();
    let before = View::default().next(&snapshot);
    let since = |view: &View, number| port(view, number).endpoints[0].live.since_ns();
    let mut health = |view: &View, status: &str| {
        write(&mut snapshot.endpoints, "web-0");
        let endpoints = &mut snapshot.endpoints;
        let endpoint = endpoints.get_mut(&ObjectKey::new("shop", "web-0"));
        let endpoint = Arc::make_mut(endpoint.expect("it is there"));
        let health = json!({"status": status, "since": "", "output": ""});
        endpoint.status.health = serde_json::from_value(health).expect("a health");
        view.next(&snapshot)
    };
    let came = [since(&before, 1), since(&before, 2)];
    let failed = health(&before, "critical");
    assert_eq!(since(&failed, 1), came[0]);
    let healed = health(&failed, "passing");
    assert!(since(&healed, 1) > came[0]);
    assert_eq!(since(&healed, 2), came[1]);
}

#[test]
fn an_endpoint_that_was_not_offered_before_is_new() {
    let mut snapshot = snapshot();
    let mut view = View::default().next(&snapshot);
    let since = |view: &View| port(view, 1).endpoints[0].live.since_ns();
    let mut put = |view: &View, spec: Value| {
        write(&mut snapshot.endpoints, "web-0");
        let endpoint = snapshot.endpoints.get_mut(&ObjectKey::new("shop", "web-0"));
        let endpoint = Arc::make_mut(endpoint.expect("it is there"));
        let mut whole = json!({"service": "web", "address": "10.0.0.3"});
        whole
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        endpoint.spec = serde_json::from_value(whole).expect("an endpoint");
        view.next(&snapshot)
    };
    for kept_out in [
        json!({"lifecycle": "starting"}),
        json!({"lifecycle": "draining"}),
        json!({"maintenance": {}}),
        json!({"weight": 0}),
    ] {
        let before = since(&view);
        view = put(&view, kept_out.clone());
        assert_eq!(since(&view), before, "{kept_out}");
        view = put(&view, json!({}));
        let back = since(&view);
        assert!(back > before, "{kept_out}");
        view = put(&view, json!({"weight": 5}));
        assert_eq!(since(&view), back, "{kept_out}");
    }
}

/// A random write of a random object: few names, so that they meet.
fn random_write(store: &Store, rng: &mut StdRng) {
    let name = ["a", "b", "c"][rng.random_range(0..3)];
    let other = ["a", "b", "c"][rng.random_range(0..3)];
    let service = json!({"group": "", "kind": "Service", "name": other});
    let address = format!("10.0.0.{}", rng.random_range(1..6));
    let (kind, spec) = match rng.random_range(0..6) {
        0 => {
            let ports = ["http", "tcp", "udp"][rng.random_range(0..3)];
            let number = rng.random_range(80..83);
            let ports = json!([{"name": "main", "port": number, "protocol": ports}]);
            (
                Kind::Service,
                json!({"ports": ports, "headless": rng.random_bool(0.2)}),
            )
        }
        1 | 2 => {
            let spec =
                json!({"service": other, "address": address, "weight": rng.random_range(0..3)});
            (Kind::Endpoint, spec)
        }
        3 => {
            let spec = json!({"netns": format!("/run/{name}"), "addresses": [address]});
            (Kind::Workload, spec)
        }
        4 => {
            let rules = json!([{"name": "only", "backendRefs": [{"name": "a", "port": 80}]}]);
            let kind = [Kind::HttpRoute, Kind::GrpcRoute][rng.random_range(0..2)];
            (kind, json!({"parentRefs": [service], "rules": rules}))
        }
        _ => {
            let kind = ["Service", "HTTPRoute"][rng.random_range(0..2)];
            let target = json!({"kind": kind, "name": other});
            let spec = json!({"target": target, "outlierDetection": {"consecutive5xx": rng.random_range(1..4)}});
            (Kind::TrafficPolicy, spec)
        }
    };
    let key = ObjectKey::new("shop", name);
    let change = if rng.random_bool(0.3) {
        Change::Delete {
            kind,
            key,
            resource_version: None,
        }
    } else {
        Change::Put(decode::manifest(kind, &key, json!({ "spec": spec })).expect("it is right"))
    };
    // What is refused changes nothing.
    drop(store.apply(change));
}

/// What a view says, in an order that does not depend on its tables.
fn told(view: &View) -> Vec<String> {
    let mut told: Vec<String> = view
        .ports
        .iter()
        .map(|(dialled, port)| format!("{dialled:?} is {}", port.number))
        .collect();
    for (key, ports) in &view.services {
        for port in ports {
            let endpoints = port.endpoints.iter();
            let endpoints: Vec<_> = endpoints
                .map(|it| {
                    let workload = it.workload.as_ref().map(|it| (&it.key, it.ipv4));
                    (it.number, it.address, it.weight, workload)
                })
                .collect();
            let policy = port
                .policy
                .object()
                .map(|it| (it.key(), it.metadata.generation));
            let routes = port.http_routes("shop").map(|routes| format!("{routes:?}"));
            let port = (port.number, port.port, port.protocol);
            told.push(format!(
                "{key} {port:?} {endpoints:?} {policy:?} {routes:?}"
            ));
        }
    }
    told.extend(view.lives.keys().map(|it| format!("live {it}")));
    told.extend(view.policies.keys().map(|it| format!("policy {it}")));
    let workloads = view.workloads.values();
    told.extend(workloads.map(|it| format!("workload {} {} {:?}", it.number, it.key, it.ipv4)));
    told.sort();
    told
}

#[test]
fn a_step_leads_to_the_same_as_a_view_of_everything() {
    let mut rng = StdRng::seed_from_u64(17);
    let store = Store::in_memory();
    let mut view = View::default();
    let mut most = 0;
    for _ in 0..400 {
        for _ in 0..rng.random_range(1..4) {
            random_write(&store, &mut rng);
        }
        let snapshot = store.snapshot();
        view = view.next(&snapshot);
        let whole = told(&View::default().next(&snapshot));
        most = most.max(whole.len());
        assert_eq!(told(&view), whole);
    }
    assert!(most > 10, "there was something to compare");
}

//! Who is asked when, and what the registry is told.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;
use crate::metrics::Registry;
use crate::net::conn::NoTable;
use crate::proxy::Config;
use crate::state::decode;
use crate::state::object::Kind;

fn put(store: &Store, kind: Kind, name: &str, spec: &Value) {
    let key = ObjectKey::new("shop", name);
    let manifest = decode::manifest(kind, &key, json!({ "spec": spec })).unwrap();
    store.apply(Change::Put(manifest)).unwrap();
}

/// So many endpoints that are checked. None is ever asked here.
fn start(endpoints: u32, check: &Value) -> (Proxy, Checks) {
    let store = Arc::new(Store::in_memory());
    let ports = json!({"ports": [{"name": "main", "port": 80, "protocol": "http"}]});
    put(&store, Kind::Service, "web", &ports);
    let target = json!({"kind": "Service", "name": "web"});
    let policy = json!({"target": target, "healthCheck": check});
    put(&store, Kind::TrafficPolicy, "web", &policy);
    for number in 0..endpoints {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0001 + number);
        let spec = json!({"service": "web", "address": address});
        put(&store, Kind::Endpoint, &format!("web-{number}"), &spec);
    }
    let config = Config {
        workers: 1,
        port: 0,
        ..Config::default()
    };
    let table = Arc::new(NoTable);
    let proxy = Proxy::start(config, Arc::clone(&store), table, &mut Registry::new()).unwrap();
    let mut checks = Checks::default();
    checks.follow(&proxy, &store);
    (proxy, checks)
}

#[tokio::test(start_paused = true)]
async fn many_who_hang_keep_nobody_out() {
    let check = json!({"tcp": {}, "interval": "1s", "timeout": "1s"});
    let (proxy, mut checks) = start(300, &check);
    assert_eq!(checks.subjects.len(), 300);
    for _ in 0..10 {
        checks.start();
        let now = Instant::now();
        let subjects = checks.subjects.iter_mut();
        let asked = subjects.filter(|(_, subject)| subject.due(now).is_none());
        let asked = asked.map(|(key, subject)| (key.clone(), Arc::clone(subject.start().unwrap())));
        let asked: Vec<_> = asked.collect();
        assert_eq!(asked.len(), MAX_RUNNING);
        // They have not come to ask.
        checks.running = JoinSet::new();
        tokio::time::advance(Duration::from_secs(1)).await;
        for (key, probe) in asked {
            checks.ended(&proxy, (key, probe, Seen::Bad("no answer".to_owned())));
        }
        // By now all are due again.
        tokio::time::advance(Duration::from_secs(2)).await;
    }
    let subjects = checks.subjects.values();
    let kept_out = subjects.filter(|it| it.output().is_empty());
    assert_eq!(kept_out.count(), 0);
}

/// A check of the only endpoint.
fn seen(proxy: &Proxy, checks: &mut Checks, seen: Seen) {
    let (key, subject) = checks.subjects.iter_mut().next().unwrap();
    let done = (key.clone(), Arc::clone(subject.start().unwrap()), seen);
    checks.ended(proxy, done);
}

/// What the registry is told, which answers so.
async fn told(checks: &mut Checks, answer: Result<(), Refusal>) -> Vec<Option<HealthStatus>> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&told);
    let write = move |news| {
        *into.lock().unwrap() = news;
        answer
    };
    checks.tell(write).await;
    let told = std::mem::take(&mut *told.lock().unwrap());
    let told = told.into_iter().map(|change| match change {
        Change::Health { health, .. } => health.map(|it| it.status),
        other => panic!("{other:?}"),
    });
    told.collect()
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_told_again_after_a_pause() {
    let (proxy, mut checks) = start(1, &json!({"tcp": {}}));
    seen(&proxy, &mut checks, Seen::Bad("no".to_owned()));
    let critical = [Some(HealthStatus::Critical)];
    assert_eq!(told(&mut checks, Err(Refusal::DiskFull)).await, critical);
    tokio::time::advance(PAUSE / 2).await;
    assert_eq!(told(&mut checks, Ok(())).await, [], "it is left alone");
    tokio::time::advance(PAUSE).await;
    assert_eq!(told(&mut checks, Ok(())).await, critical);
    tokio::time::advance(PAUSE).await;
    assert_eq!(told(&mut checks, Ok(())).await, []);
    // Nobody watches it any more.
    let (key, _) = checks.subjects.drain().next().unwrap();
    checks.forgotten.push(key);
    assert_eq!(told(&mut checks, Err(Refusal::DiskFull)).await, [None]);
    tokio::time::advance(PAUSE).await;
    assert_eq!(told(&mut checks, Ok(())).await, [None]);
    assert_eq!(told(&mut checks, Ok(())).await, []);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_asked_stays_as_it_was() {
    let (proxy, mut checks) = start(1, &json!({"tcp": {}}));
    let nothing = || Seen::Nothing("no socket".to_owned());
    seen(&proxy, &mut checks, nothing());
    assert_eq!(told(&mut checks, Ok(())).await, []);
    seen(&proxy, &mut checks, Seen::Good("yes".to_owned()));
    assert_eq!(
        told(&mut checks, Ok(())).await,
        [Some(HealthStatus::Passing)]
    );
    for _ in 0..9 {
        seen(&proxy, &mut checks, nothing());
    }
    tokio::time::advance(PAUSE).await;
    assert_eq!(told(&mut checks, Ok(())).await, []);
}

//! What checks have shown, across a restart of the agent.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::fixture::{FixedConnTable, within};
use crate::metrics::Registry;
use crate::proxy::{Config, Proxy};
use crate::state::endpoint::{Health, HealthStatus};
use crate::state::object::{Kind, ObjectKey};
use crate::state::{Change, Store, decode};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn put(store: &Store, kind: Kind, name: &str, spec: &Value) {
    let manifest = decode::manifest(kind, &key(name), json!({ "spec": spec })).unwrap();
    store.apply(Change::Put(manifest)).unwrap();
}

#[tokio::test]
async fn what_an_earlier_agent_has_seen_is_forgotten_where_nobody_looks_any_more() {
    let store = Arc::new(Store::in_memory());
    for name in ["web", "db"] {
        let ports = json!({"ports": [{"name": "main", "port": 80, "protocol": "http"}]});
        put(&store, Kind::Service, name, &ports);
        let spec = json!({"service": name, "address": "10.0.0.3"});
        put(&store, Kind::Endpoint, name, &spec);
        let health = Health {
            status: HealthStatus::Critical,
            since: String::new(),
            output: "seen before".to_owned(),
        };
        let key = key(name);
        let health = Some(health);
        store.apply(Change::Health { key, health }).unwrap();
    }
    let target = json!({"kind": "Service", "name": "db"});
    let watch = json!({"target": target, "outlierDetection": {"consecutive5xx": 3}});
    put(&store, Kind::TrafficPolicy, "db", &watch);

    let config = Config {
        workers: 1,
        port: 0,
        ..Config::default()
    };
    let table = Arc::new(FixedConnTable::default());
    let proxy = Proxy::start(config, Arc::clone(&store), table, &mut Registry::new()).unwrap();
    let health = |name: &str| store.snapshot().endpoints[&key(name)].status.health.clone();
    let is_forgotten = async {
        while health("web").is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(async {
        tokio::select! {
            () = proxy.check_health(&store) => {}
            () = is_forgotten => {}
        }
    })
    .await;
    assert!(health("db").is_some(), "its answers are looked at");
}

//! The life of an endpoint: it starts, serves, is taken out for a while, drains and goes.

use std::time::Duration;

use mesh_tests::assert_eventually;
use mesh_tests::eventually::becomes;
use mesh_tests::registry::{endpoint, with};
use serde_json::{Value, json};

use crate::shop::{CACHE_PORT, Shop, WEB, cache};

/// Where an endpoint is.
fn path(name: &str) -> String {
    format!("/api/v1/namespaces/shop/endpoints/{name}")
}

/// What the registry says of an endpoint, in one word.
fn standing(shop: &Shop, name: &str) -> Option<String> {
    let answer = shop.node.api().call("GET", &path(name), &Value::Null);
    let history = answer.json()["status"]["history"].clone();
    let last = history.as_array()?.last()?.clone();
    last["status"].as_str().map(ToOwned::to_owned)
}

#[test]
fn what_starts_or_is_in_maintenance_gets_nothing() {
    let Some(shop) = Shop::open(2) else { return };
    shop.open_web();
    let change = |fields: &Value| {
        let object = endpoint("web-1", "web", shop.servers[0].v4(), "http", 8_080);
        shop.node.apply(&[with(object, fields)]);
    };
    let answering = || {
        let names = (0..12).map(|_| shop.client.get(WEB).header("x-server").to_owned());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let both = || answering().len() == 2;
    let only_second = || answering().into_iter().eq(["web-2".to_owned()]);
    assert_eventually!(both());
    change(&json!({"lifecycle": "starting"}));
    assert_eventually!(only_second());
    change(&json!({}));
    assert_eventually!(both());
    change(&json!({"maintenance": {"reason": "new disk"}}));
    assert_eventually!(only_second());
    let status = shop.node.api().get(&path("web-1"))["status"].clone();
    assert_eq!(status["health"]["status"], "critical");
    assert_eq!(status["availability"]["view"], "DOWN");
    let words: Vec<&str> = status["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["status"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["ready", "starting", "ready", "maintenance"]);
    let service = shop.node.api().get("/api/v1/namespaces/shop/services/web");
    assert_eq!(service["status"]["availability"]["view"], "UP");
}

#[test]
fn a_draining_endpoint_keeps_its_connection_and_goes_with_it() {
    let Some(shop) = Shop::open(2) else { return };
    shop.open_cache();
    for name in ["cache-1-v6", "cache-2", "cache-2-v6"] {
        shop.node.delete(&endpoint(
            name,
            "cache",
            shop.servers[0].v4(),
            "tcp",
            CACHE_PORT,
        ));
    }
    let conn = shop.client.connect(cache()).unwrap();
    conn.echo("before").unwrap();
    let object = endpoint("cache-1", "cache", shop.servers[0].v4(), "tcp", CACHE_PORT);
    let draining = json!({"lifecycle": "draining", "drainFor": "1h"});
    let other = endpoint("cache-2", "cache", shop.servers[1].v4(), "tcp", CACHE_PORT);
    shop.node.apply(&[other, with(object, &draining)]);
    assert_eq!(standing(&shop, "cache-1").as_deref(), Some("draining"));
    for _ in 0..8 {
        let new = shop.client.connect(cache()).unwrap();
        new.echo("new").unwrap();
        new.close();
    }
    conn.echo("while it drains").unwrap();
    // Longer than it would take to notice that nothing is under way.
    let is_gone = || standing(&shop, "cache-1").is_none();
    assert!(
        !becomes(Duration::from_secs(2), is_gone),
        "it has a connection"
    );
    conn.echo("and still").unwrap();
    conn.close();
    assert_eventually!(
        shop.node
            .api()
            .call("GET", &path("cache-1"), &Value::Null)
            .status
            == 404
    );
    // Counted once it is gone.
    let drained = [("reason", "drained")];
    assert_eventually!(
        shop.node
            .metrics()
            .sum("mesh_endpoints_deregistered_total", &drained)
            >= 1.0
    );
}

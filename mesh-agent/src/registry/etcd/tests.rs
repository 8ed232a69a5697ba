//! Nodes without a kernel, and a real etcd. Skipped where etcd is not installed, unless `MESH_TESTS_REQUIRE` is set.

mod fleet;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::intake::{self, Step};
use super::outbox::Word;
use super::{courier, document, link};

use crate::net::tls::{Connector, TlsFiles};
use crate::state::change::NoticeKind;
use crate::state::decode;
use crate::state::endpoint::RESOLVED_FOR;
use crate::state::object::Kind;
use crate::state::{Applied, Change, Manifest, Refusal, registration};
use fleet::{Fleet, Member, Relay, delete, endpoint, eventually, key, put, service};

#[tokio::test]
async fn service_is_the_same_on_every_node() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];

    let made = a
        .writer
        .apply(put(Kind::Service, "web", &service()))
        .await
        .unwrap();

    assert!(matches!(made, Applied::Created(_)), "{made:?}");
    let of_a = a.service("web").expect("its own node has it at once");
    assert_eq!(of_a.metadata.source.name(), "etcd");
    let of_b = eventually("b has it", || b.service("web")).await;
    assert_eq!(of_a.status.addresses, of_b.status.addresses);
    assert_eq!(of_a.metadata.uid, of_b.metadata.uid);
    assert_eq!(
        of_a.metadata.creation_timestamp,
        of_b.metadata.creation_timestamp
    );

    let again = a
        .writer
        .apply(put(Kind::Service, "web", &service()))
        .await
        .unwrap();
    assert!(matches!(again, Applied::Changed(_)));
    let gone = b.writer.apply(delete(Kind::Service, "web")).await.unwrap();
    assert!(matches!(gone, Applied::Deleted(_)));
    eventually("a has it no more", || {
        a.service("web").is_none().then_some(())
    })
    .await;
    let unknown = a
        .writer
        .apply(delete(Kind::Service, "web"))
        .await
        .unwrap_err();
    assert!(matches!(unknown, Refusal::NotFound { .. }), "{unknown}");
}

#[tokio::test]
async fn no_address_is_given_to_two_services() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    // Six addresses for six services, made on two nodes at once.
    let [a, b] = [fleet.narrow_node("a").await, fleet.narrow_node("b").await];
    let mut made = tokio::task::JoinSet::new();
    for index in 0..6 {
        let node = if index % 2 == 0 { &a } else { &b };
        let writer = node.writer.clone();
        let name = format!("web-{index}");
        made.spawn(async move { writer.apply(put(Kind::Service, &name, &service())).await });
    }
    for made in made.join_all().await {
        made.unwrap();
    }
    eventually("both have all", || {
        (a.store.snapshot().services.len() == 6 && b.store.snapshot().services.len() == 6)
            .then_some(())
    })
    .await;
    let addresses = |node: &Member| {
        let snapshot = node.store.snapshot();
        let services = snapshot.services.iter();
        services
            .map(|(key, it)| (key.clone(), it.status.addresses.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(addresses(&a), addresses(&b));
    let mut all: Vec<_> = addresses(&a).into_iter().flat_map(|(_, it)| it).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6);
    let full = b
        .writer
        .apply(put(Kind::Service, "more", &service()))
        .await
        .unwrap_err();
    assert!(full.to_string().contains("no free address"), "{full}");
    a.writer
        .apply(delete(Kind::Service, "web-0"))
        .await
        .unwrap();
    eventually("b has room", || b.service("web-0").is_none().then_some(())).await;
    b.writer
        .apply(put(Kind::Service, "more", &service()))
        .await
        .unwrap();
}

#[tokio::test]
async fn older_version_is_a_conflict_wherever_the_newer_was_written() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];
    a.writer
        .apply(put(Kind::Service, "web", &service()))
        .await
        .unwrap();
    let old = eventually("b has it", || b.service("web")).await;
    let mut newer = service();
    newer["ports"][0]["port"] = json!(81);
    a.writer
        .apply(put(Kind::Service, "web", &newer))
        .await
        .unwrap();

    let version = old.metadata.resource_version.clone();
    let late = b.writer.apply(Change::Delete {
        kind: Kind::Service,
        key: key("web"),
        resource_version: Some(version),
    });

    let refused = late.await.unwrap_err();
    assert!(matches!(refused, Refusal::Conflict { .. }), "{refused}");
}

#[tokio::test]
async fn service_that_is_made_is_not_made_over_by_another_node() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];
    for round in 0..10 {
        let name = format!("kv-{round}");
        let made = |setting: &str| {
            let mut service = registration::made(&key(&name), BTreeSet::new(), &[]);
            let settings = &mut service.spec.configuration;
            settings.insert(setting.to_owned(), "1".to_owned());
            Change::Put(Manifest::Service(service.into()))
        };
        let both = tokio::join!(a.writer.apply(made("a")), b.writer.apply(made("b")));
        let (winner, refused) = match both {
            (Ok(_), Err(refused)) => (&a, refused),
            (Err(refused), Ok(_)) => (&b, refused),
            other => panic!("one of the two is refused: {other:?}"),
        };
        assert!(matches!(refused, Refusal::Conflict { .. }), "{refused}");
        let service = winner.service(&name).expect("it is there");
        assert_eq!(service.spec.configuration.len(), 1);
    }
}

#[tokio::test]
async fn who_was_slower_tries_again_in_an_etcd_that_others_write_too() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];
    let put_port = |port: u16| {
        let spec = json!({"ports": [{"name": "http", "port": port}]});
        put(Kind::Service, "web", &spec)
    };
    a.writer.apply(put_port(80)).await.unwrap();
    eventually("b has it", || b.service("web")).await;
    for round in 0..20 {
        // Nobody of this fleet hears of these.
        let others = fleet.server.keep_writing("other/key");
        let [first, second] = [100 + round, 200 + round].map(put_port);
        let made = tokio::join!(a.writer.apply(first), b.writer.apply(second));
        drop(others);
        assert!(made.0.is_ok() && made.1.is_ok(), "{made:?}");
    }
}

#[tokio::test]
async fn endpoints_go_with_their_node_and_come_back_with_it() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let b = fleet.node("b").await;
    let mut a = fleet.node("a").await;
    a.writer
        .apply(put(Kind::Endpoint, "web-1", &endpoint("10.0.0.1")))
        .await
        .unwrap();
    let shared = eventually("b has it", || b.endpoint("web-1")).await;
    assert_eq!(shared.metadata.origin, "a");

    a.stop().await;

    eventually("it goes with the lease", || {
        b.endpoint("web-1").is_none().then_some(())
    })
    .await;
    assert!(a.endpoint("web-1").is_some(), "its node knows it still");
    a.run();
    eventually("it is back", || b.endpoint("web-1")).await;
    assert!(a.endpoint("web-1").is_some());
}

#[tokio::test]
async fn agent_that_is_back_within_its_lease_finds_its_endpoints_where_they_were() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let b = fleet.node("b").await;
    let mut a = fleet.node("a").await;
    a.writer
        .apply(put(Kind::Endpoint, "web-1", &endpoint("10.0.0.1")))
        .await
        .unwrap();
    let before = eventually("b has it", || b.endpoint("web-1")).await;

    a.stop().await;
    a.run();
    eventually("a is back", || a.etcd.report().connected.then_some(())).await;
    a.writer
        .apply(delete(Kind::Endpoint, "web-1"))
        .await
        .unwrap();

    eventually("b has it no more", || {
        b.endpoint("web-1").is_none().then_some(())
    })
    .await;
    assert_eq!(before.metadata.generation, 1);
}

#[tokio::test]
async fn step_that_fails_after_a_lease_is_made_costs_no_endpoint() {
    for is_new_agent in [false, true] {
        let Some(fleet) = Fleet::start().await else {
            return;
        };
        let b = fleet.node("b").await;
        let mut a = fleet.node("a").await;
        a.writer
            .apply(put(Kind::Endpoint, "web-1", &endpoint("10.0.0.1")))
            .await
            .unwrap();
        eventually("b has it", || b.endpoint("web-1")).await;
        a.stop().await;
        eventually("it goes with the lease", || {
            b.endpoint("web-1").is_none().then_some(())
        })
        .await;
        // It makes its lease, and goes no further.
        fleet.server.put("mesh/nodes/a", "another");
        a.run();
        eventually("it says why", || {
            let error = a.etcd.report().error;
            error.contains("give each its own --node").then_some(())
        })
        .await;
        if is_new_agent {
            a.stop().await;
            a.run();
        }

        fleet.server.delete("mesh/nodes/a");

        eventually("a is back", || a.etcd.report().connected.then_some(())).await;
        assert!(a.endpoint("web-1").is_some(), "new agent: {is_new_agent}");
        eventually("it is back", || b.endpoint("web-1")).await;
        eventually("a says so", || {
            let endpoint = a.endpoint("web-1")?;
            (fleet::condition(&endpoint.status.conditions, "Shared") == Some("Shared"))
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn endpoint_that_somebody_else_deletes_is_gone_on_its_own_node() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];
    a.writer
        .apply(put(Kind::Endpoint, "web-1", &endpoint("10.0.0.1")))
        .await
        .unwrap();
    eventually("b has it", || b.endpoint("web-1")).await;

    b.writer
        .apply(delete(Kind::Endpoint, "web-1"))
        .await
        .unwrap();

    eventually("a has it no more", || {
        a.endpoint("web-1").is_none().then_some(())
    })
    .await;
    // Taken over by another node, it is that one's.
    a.writer
        .apply(put(Kind::Endpoint, "web-2", &endpoint("10.0.0.2")))
        .await
        .unwrap();
    eventually("b has it", || b.endpoint("web-2")).await;
    b.writer
        .apply(put(Kind::Endpoint, "web-2", &endpoint("10.0.0.3")))
        .await
        .unwrap();
    eventually("a knows", || {
        a.endpoint("web-2").filter(|it| it.metadata.origin == "b")
    })
    .await;
}

#[tokio::test]
async fn while_etcd_is_away_endpoints_queue_and_the_rest_is_refused_clearly() {
    let Some(mut fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];
    for name in ["web", "api"] {
        a.writer
            .apply(put(Kind::Service, name, &service()))
            .await
            .unwrap();
    }
    a.writer
        .apply(put(Kind::Endpoint, "web-0", &endpoint("10.0.0.9")))
        .await
        .unwrap();
    eventually("b has all", || {
        b.endpoint("web-0")?;
        b.service("api")
    })
    .await;

    fleet.server.kill();
    eventually("a knows", || (!a.etcd.report().connected).then_some(())).await;
    let refused = a.writer.apply(put(Kind::Service, "new", &service())).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Refusal::Unavailable(_)), "{refused}");
    assert!(refused.to_string().contains("away"), "{refused}");
    let same = a.writer.apply(put(Kind::Service, "web", &service()));
    assert!(same.await.is_ok(), "nothing is to be written");
    a.writer
        .apply(put(Kind::Endpoint, "web-1", &endpoint("10.0.0.1")))
        .await
        .unwrap();
    a.writer
        .apply(delete(Kind::Endpoint, "web-0"))
        .await
        .unwrap();
    let queued = a.endpoint("web-1").unwrap();
    assert_eq!(
        fleet::condition(&queued.status.conditions, "Shared"),
        Some("Queued")
    );
    assert_eq!(a.etcd.report().queued, 2);
    assert!(a.service("web").is_some() && b.endpoint("web-0").is_some());
    assert_eq!(a.etcd.pending(), None, "what is known goes on to hold");

    fleet.server.start().await;

    eventually("b has the new one", || b.endpoint("web-1")).await;
    eventually("b lacks the old one", || {
        b.endpoint("web-0").is_none().then_some(())
    })
    .await;
    eventually("a says so", || {
        let endpoint = a.endpoint("web-1")?;
        (fleet::condition(&endpoint.status.conditions, "Shared") == Some("Shared")).then_some(())
    })
    .await;
    a.writer
        .apply(put(Kind::Service, "new", &service()))
        .await
        .unwrap();
    eventually("b has it", || b.service("new")).await;
}

#[tokio::test]
async fn what_was_queued_survives_the_agent() {
    let Some(mut fleet) = Fleet::start().await else {
        return;
    };
    let mut a = fleet.node("a").await;
    let b = fleet.node("b").await;
    a.writer
        .apply(put(Kind::Endpoint, "web-0", &endpoint("10.0.0.9")))
        .await
        .unwrap();
    eventually("b has it", || b.endpoint("web-0")).await;
    fleet.server.kill();
    eventually("a knows", || (!a.etcd.report().connected).then_some(())).await;
    a.writer
        .apply(put(Kind::Endpoint, "web-1", &endpoint("10.0.0.1")))
        .await
        .unwrap();
    a.writer
        .apply(delete(Kind::Endpoint, "web-0"))
        .await
        .unwrap();

    a.stop().await;
    fleet.server.start().await;
    a.run();

    eventually("b has the new one", || b.endpoint("web-1")).await;
    eventually("b lacks the old one", || {
        b.endpoint("web-0").is_none().then_some(())
    })
    .await;
    assert!(a.endpoint("web-1").is_some() && a.endpoint("web-0").is_none());
}

#[tokio::test]
async fn endpoints_outlive_an_etcd_that_hangs_for_longer_than_leases_last() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    // For so long are leases in doubt that have run out meanwhile: all must be back by then.
    let ttl = Duration::from_secs(5);
    let node = async |name| fleet.lasting_node(name, ttl).await;
    let [a, b] = [node("a").await, node("b").await];
    let dead = node("dead").await;
    a.writer
        .apply(put(Kind::Endpoint, "web-1", &endpoint("10.0.0.1")))
        .await
        .unwrap();
    dead.writer
        .apply(put(Kind::Endpoint, "web-2", &endpoint("10.0.0.2")))
        .await
        .unwrap();
    eventually("b has both", || {
        b.endpoint("web-1")?;
        b.endpoint("web-2")
    })
    .await;
    let mut notices = b.store.subscribe();

    fleet.server.freeze();
    eventually("both know", || {
        (!a.etcd.report().connected && !b.etcd.report().connected).then_some(())
    })
    .await;
    drop(dead);
    let refused = a
        .writer
        .apply(put(Kind::Service, "new", &service()))
        .await
        .unwrap_err();
    assert!(matches!(refused, Refusal::Unavailable(_)), "{refused}");
    eventually("the leases have run out", || {
        (a.etcd.report().staleness_seconds >= 8).then_some(())
    })
    .await;
    fleet.server.thaw();

    eventually("a is back", || a.etcd.report().connected.then_some(())).await;
    a.writer
        .apply(put(Kind::Service, "later", &service()))
        .await
        .unwrap();
    eventually("b has it", || b.service("later")).await;
    eventually("that of the dead node goes", || {
        b.endpoint("web-2").is_none().then_some(())
    })
    .await;
    while let Ok(notice) = notices.try_recv() {
        let is_gone = notice.event == NoticeKind::Deleted && notice.object.key() == key("web-1");
        assert!(!is_gone, "it was never away");
    }
    assert!(b.endpoint("web-1").is_some());
    let value = fleet
        .server
        .get("mesh/objects/Endpoint/shop/web-1")
        .unwrap();
    assert_eq!(value["status"]["node"], "a");
}

#[tokio::test]
async fn endpoint_that_was_let_go_does_not_come_back_with_what_was_said_before() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let mut a = fleet.node("a").await;
    a.writer
        .apply(put(Kind::Endpoint, "web-1", &endpoint("10.0.0.1")))
        .await
        .unwrap();
    let name = (Kind::Endpoint, key("web-1"));
    let told = fleet.server.text("mesh/objects/Endpoint/shop/web-1");
    let told = document::read(name.0, &name.1, told.unwrap().as_bytes()).unwrap();
    let link = Arc::clone(&a.etcd.link);
    let revision = eventually("it is told", || {
        let known = link.known();
        known.values.get(&name).map(|it| it.revision)
    })
    .await;
    // What etcd says comes later, here.
    a.stop().await;
    let courier = AbortOnDropHandle::new(tokio::spawn(courier::run(Arc::clone(&link))));
    let let_go = (link::origin("a"), delete(Kind::Endpoint, "web-1"));
    link.store.apply_all([let_go]).remove(0).unwrap();
    link.post(&name.1, Word::Delete).unwrap();
    eventually("etcd is told", || (link.outbox().len() == 0).then_some(())).await;
    drop(courier);

    let late = Step::Put {
        name: name.clone(),
        shared: told,
        revision,
    };
    intake::take(&link, vec![late], Vec::new()).await.unwrap();

    assert!(a.endpoint("web-1").is_none());
    a.resume();
    eventually("nobody needs to remember it", || {
        link.known().gone.is_empty().then_some(())
    })
    .await;
    assert!(a.endpoint("web-1").is_none());
}

#[tokio::test]
async fn endpoint_that_was_let_go_and_is_another_nodes_by_now_is_known() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [mut a, b] = [fleet.node("a").await, fleet.node("b").await];
    let put = |address: &str| put(Kind::Endpoint, "web-1", &endpoint(address));
    a.writer.apply(put("10.0.0.1")).await.unwrap();
    eventually("b has it", || b.endpoint("web-1")).await;
    // Nobody hears of what a does, and a hears nothing.
    a.stop().await;
    let link = Arc::clone(&a.etcd.link);
    let name = (Kind::Endpoint, key("web-1"));
    let let_go = (link::origin("a"), delete(Kind::Endpoint, "web-1"));
    link.store.apply_all([let_go]).remove(0).unwrap();
    link.post(&name.1, Word::Delete).unwrap();
    let known = || Some(b.etcd.link.known().values.get(&name)?.revision);
    let before = known();
    b.writer.apply(put("10.0.0.2")).await.unwrap();
    let moved = || {
        let told = fleet.server.text("mesh/objects/Endpoint/shop/web-1")?;
        let told = document::read(name.0, &name.1, told.as_bytes()).unwrap();
        (told.node == "b").then_some(told)
    };
    let shared = eventually("it is told", moved).await;
    let later = || known().filter(|it| Some(*it) > before);
    let revision = eventually("b knows of it", later).await;

    let heard = Step::Put {
        name: name.clone(),
        shared,
        revision,
    };
    intake::take(&link, vec![heard], Vec::new()).await.unwrap();

    let is_of_b = || a.endpoint("web-1").filter(|it| it.metadata.origin == "b");
    assert!(is_of_b().is_some());
    let courier = AbortOnDropHandle::new(tokio::spawn(courier::run(Arc::clone(&link))));
    eventually("etcd is told", || (link.outbox().len() == 0).then_some(())).await;
    drop(courier);
    assert!(is_of_b().is_some());
    a.resume();
    b.writer
        .apply(delete(Kind::Endpoint, "web-1"))
        .await
        .unwrap();
    eventually("it is gone", || a.endpoint("web-1").is_none().then_some(())).await;
}

#[tokio::test]
async fn endpoints_that_etcd_refuses_hold_no_others_up() {
    let Some(mut fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];
    fleet.server.kill();
    eventually("a knows", || (!a.etcd.report().connected).then_some(())).await;
    let with_bodies = |count: usize| {
        let body = "x".repeat(64 << 10);
        let http = json!({"url": "http://10.0.0.1/", "method": "POST", "body": body});
        let check = |index: usize| json!({"id": index.to_string(), "http": http});
        let mut spec = endpoint("10.0.0.1");
        spec["checks"] = (0..count).map(check).collect();
        move |name: &str| put(Kind::Endpoint, name, &spec)
    };
    // One alone is too large for etcd, and so are the others together.
    let (large, small) = (with_bodies(30), with_bodies(3));
    let mut changes = vec![large("huge")];
    changes.extend((0..10).map(|index| small(&format!("web-{index}"))));
    for change in changes {
        a.writer.apply(change).await.unwrap();
    }

    fleet.server.start().await;

    eventually("b has all that can be told", || {
        (0..10).try_for_each(|index| b.endpoint(&format!("web-{index}")).map(drop))
    })
    .await;
    eventually("a knows what was taken", || {
        (a.etcd.report().queued == 1).then_some(())
    })
    .await;
    a.writer.apply(with_bodies(0)("huge")).await.unwrap();
    eventually("b has it as it is now", || b.endpoint("huge")).await;
}

#[tokio::test]
async fn forgotten_writes_are_read_again_as_a_whole() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let a = fleet.node("a").await;
    let mut b = fleet.node("b").await;
    for index in 0..20 {
        let name = format!("web-{index}");
        a.writer
            .apply(put(Kind::Service, &name, &service()))
            .await
            .unwrap();
    }
    eventually("b has them", || {
        (b.store.snapshot().services.len() == 20).then_some(())
    })
    .await;
    b.stop().await;
    a.writer
        .apply(delete(Kind::Service, "web-0"))
        .await
        .unwrap();
    a.writer
        .apply(put(Kind::Service, "new", &service()))
        .await
        .unwrap();
    let revision = a.etcd.report().revision;
    fleet.server.post(
        "kv/compaction",
        &json!({"revision": revision.to_string(), "physical": true}),
    );

    b.resume();

    eventually("b has the new one", || b.service("new")).await;
    assert!(b.service("web-0").is_none());
    assert_eq!(b.store.snapshot().services.len(), 20);
}

#[tokio::test]
async fn etcd_that_has_come_back_empty_takes_nothing_away() {
    let Some(mut fleet) = Fleet::start().await else {
        return;
    };
    let a = fleet.node("a").await;
    a.writer
        .apply(put(Kind::Service, "web", &service()))
        .await
        .unwrap();
    let name = fleet.server.text("mesh/fleet").unwrap();
    fleet.server.kill();
    fleet.server.forget();
    fleet.server.start().await;

    eventually("a says so", || {
        let report = a.etcd.report();
        report.error.contains("replaced or emptied").then_some(())
    })
    .await;
    assert!(a.service("web").is_some());
    fleet.server.put("mesh/fleet", &name);
    eventually("somebody says that it is right", || {
        a.service("web").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn bad_value_hurts_only_itself_and_is_told() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let a = fleet.node("a").await;
    a.writer
        .apply(put(Kind::Service, "web", &service()))
        .await
        .unwrap();
    let good = a.service("web").unwrap();

    fleet.server.put("mesh/objects/Service/shop/web", "{");
    fleet
        .server
        .put("mesh/objects/Service/shop/x", r#"{"spec": {"ports": []}}"#);
    fleet.server.put(
        "mesh/objects/Service/shop/y",
        r#"{"spec": {"ports": [{"name": "a", "port": 1}]}}"#,
    );

    let written = eventually("people can write objects", || a.service("y")).await;
    eventually("addresses are allotted for all", || {
        let value = fleet.server.get("mesh/objects/Service/shop/y")?;
        value["status"]["addresses"]
            .as_array()
            .filter(|it| it.len() == 2)
            .map(|_| ())
    })
    .await;
    assert_eq!(
        a.service("y").unwrap().status.addresses,
        written.status.addresses
    );
    let refused = eventually("both are told", || {
        Some(a.rejections()).filter(|it| it.len() == 2)
    })
    .await;
    let keys: Vec<_> = refused.iter().map(|it| it.place.as_str()).collect();
    assert_eq!(
        keys,
        [
            "mesh/objects/Service/shop/web",
            "mesh/objects/Service/shop/x"
        ]
    );
    assert!(refused[0].message.contains("not JSON"), "{refused:?}");
    assert!(refused[1].message.contains("spec.ports"), "{refused:?}");
    assert_eq!(
        a.service("web").unwrap().spec,
        good.spec,
        "the last good one stays"
    );
    fleet.server.put(
        "mesh/objects/Service/shop/x",
        r#"{"spec": {"ports": [{"name": "a", "port": 1}]}}"#,
    );
    eventually("it is right now", || a.service("x")).await;
    eventually("it is refused no more", || {
        (a.rejections().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_checks_show_is_known_on_every_node() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];
    let mut spec = endpoint("10.0.0.1");
    spec["checks"] = json!([{"id": "c", "ttl": "10s"}]);
    a.writer
        .apply(put(Kind::Endpoint, "web-1", &spec))
        .await
        .unwrap();
    eventually("b has it", || b.endpoint("web-1")).await;

    let change = Change::Check {
        endpoint: key("web-1"),
        id: "c".to_owned(),
        status: crate::state::endpoint::HealthStatus::Passing,
        output: "all is well".to_owned(),
    };
    a.store.apply(change).unwrap();

    eventually("b knows", || {
        let endpoint = b.endpoint("web-1")?;
        let check = endpoint.status.checks.iter().find(|it| it.id == "c")?;
        (check.output == "all is well").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_checks_show_is_told_while_much_else_changes() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];
    let mut spec = endpoint("10.0.0.1");
    spec["checks"] = json!([{"id": "c", "ttl": "10s"}]);
    for name in ["web-1", "web-2"] {
        let change = put(Kind::Endpoint, name, &spec);
        a.writer.apply(change).await.unwrap();
    }
    eventually("b has both", || {
        b.endpoint("web-1")?;
        b.endpoint("web-2")
    })
    .await;
    let check = |name: &str, output: String| Change::Check {
        endpoint: key(name),
        id: "c".to_owned(),
        status: crate::state::endpoint::HealthStatus::Passing,
        output,
    };

    a.store.apply(check("web-1", "well".to_owned())).unwrap();

    let mut turn = 0;
    eventually("b knows", || {
        turn += 1;
        a.store.apply(check("web-2", turn.to_string())).unwrap();
        let endpoint = b.endpoint("web-1")?;
        let check = endpoint.status.checks.iter().find(|it| it.id == "c")?;
        (check.output == "well").then_some(())
    })
    .await;
}

#[tokio::test]
async fn addresses_of_a_name_are_what_each_node_has_found_itself() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [a, b] = [fleet.node("a").await, fleet.node("b").await];
    let pattern = json!({"service": "web", "hostname": "api.example.com"});
    a.writer
        .apply(put(Kind::Endpoint, "pay", &pattern))
        .await
        .unwrap();
    eventually("b has the name", || b.endpoint("pay")).await;
    let found = |address: &str| {
        let key = key("pay.found");
        let document = json!({"metadata": {"annotations": {(RESOLVED_FOR): "pay"}},
            "spec": {"service": "web", "address": address}});
        Change::Put(decode::manifest(Kind::Endpoint, &key, document).unwrap())
    };

    a.writer.apply(found("192.0.2.1")).await.unwrap();
    b.store.apply(found("192.0.2.2")).unwrap();
    // What is asked for later is heard of later.
    for node in [&a, &b] {
        let name = format!("web-{}", node.etcd.report().node);
        let later = put(Kind::Service, &name, &service());
        node.writer.apply(later).await.unwrap();
    }
    for name in ["web-a", "web-b"] {
        eventually("both have both", || {
            a.service(name)?;
            b.service(name)
        })
        .await;
    }

    let address = |node: &Member| node.endpoint("pay.found").unwrap().spec.address.to_string();
    assert_eq!([address(&a), address(&b)], ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(
        fleet.server.get("mesh/objects/Endpoint/shop/pay.found"),
        None
    );
    assert!(fleet.server.get("mesh/objects/Endpoint/shop/pay").is_some());
    let gone = a.writer.apply(delete(Kind::Endpoint, "pay.found")).await;
    assert!(matches!(gone, Ok(Applied::Deleted(_))), "{gone:?}");
    assert!(b.endpoint("pay.found").is_some());
}

#[tokio::test]
async fn two_nodes_of_one_name_are_told_apart() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let _first = fleet.node("a").await;
    let second = fleet.node_unready("a");
    let report = eventually("it says why", || {
        let report = second.etcd.report();
        report
            .error
            .contains("give each its own --node")
            .then_some(report)
    })
    .await;
    assert!(!report.connected);
    assert!(second.etcd.pending().is_some(), "it was never read");
}

#[tokio::test]
async fn dead_member_is_passed_over() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let dead = fleet::free_port();
    let address = format!("etcd://127.0.0.1:{dead},127.0.0.1:{}", fleet.server.port);
    let a = fleet::node_at("a", &address, None);
    eventually("it is connected", || {
        a.etcd.report().connected.then_some(())
    })
    .await;
    a.writer
        .apply(put(Kind::Service, "web", &service()))
        .await
        .unwrap();
}

#[tokio::test]
async fn member_that_hangs_while_it_is_watched_is_left_for_another() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let relay = Relay::start(fleet.server.port).await;
    let address = format!(
        "etcd://127.0.0.1:{},127.0.0.1:{}",
        relay.port, fleet.server.port
    );
    // The lease outlives what the first member is given to answer: nothing else makes the node begin anew.
    let a = fleet::node_with("a", &address, Duration::from_mins(1));
    eventually("it is connected", || {
        a.etcd.report().connected.then_some(())
    })
    .await;
    let b = fleet.node("b").await;

    relay.hang();
    b.writer
        .apply(put(Kind::Service, "web", &service()))
        .await
        .unwrap();

    eventually("a has it", || a.service("web")).await;
    eventually("a is connected", || a.etcd.report().connected.then_some(())).await;
}

#[tokio::test]
async fn password_is_asked_for_and_its_token_is_renewed() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    fleet.server.protect("me", "s@cret");
    let port = fleet.server.port;
    for wrong in [
        format!("etcd://127.0.0.1:{port}"),
        format!("etcd://me:no@127.0.0.1:{port}"),
    ] {
        let node = fleet::node_at("x", &wrong, None);
        let error = eventually("it is refused", || {
            Some(node.etcd.report().error).filter(|it| it.contains("etcdserver"))
        })
        .await;
        assert!(!error.contains("no@"), "{error}");
    }

    let a = fleet::node_at("a", &format!("etcd://me:s%40cret@127.0.0.1:{port}"), None);

    eventually("it is connected", || {
        a.etcd.report().connected.then_some(())
    })
    .await;
    a.writer
        .apply(put(Kind::Service, "web", &service()))
        .await
        .unwrap();
    // Whatever makes tokens invalid does: here, that etcd has forgotten them.
    let mut fleet = fleet;
    fleet.server.kill();
    fleet.server.start().await;
    eventually("it is connected again", || {
        let report = a.etcd.report();
        report.connected.then_some(())
    })
    .await;
    eventually("it can write", || a.etcd.report().connected.then_some(())).await;
    a.writer
        .apply(put(Kind::Service, "api", &service()))
        .await
        .unwrap();
    let shown = format!("{:?}", a.etcd.report());
    assert!(!shown.contains("cret"), "{shown}");
}

#[tokio::test]
async fn tls_is_spoken_with_members_of_the_right_authority_only() {
    let Some(fleet) = Fleet::start_tls().await else {
        return;
    };
    let address = format!("etcds://127.0.0.1:{}", fleet.server.port);
    let stranger = fleet::node_at("x", &address, Some(fleet.server.tls("other")));
    let error = eventually("it is refused", || {
        Some(stranger.etcd.report().error).filter(|it| it.contains("certificate"))
    })
    .await;
    assert!(error.contains("cannot connect"), "{error}");
    let a = fleet::node_at("a", &address, Some(fleet.server.tls("authority")));
    eventually("it is connected", || {
        a.etcd.report().connected.then_some(())
    })
    .await;
    a.writer
        .apply(put(Kind::Service, "web", &service()))
        .await
        .unwrap();

    let files = TlsFiles {
        authorities: None,
        own: None,
    };
    if Connector::new(&files).is_ok() {
        let public = fleet::node_at("y", &address, Some(files));
        eventually("an authority of a test is refused", || {
            let error = public.etcd.report().error;
            error.contains("certificate").then_some(())
        })
        .await;
    }
}

//! Clients of Consul on a node that shares its registry with others.

use tokio::sync::mpsc;

use super::*;
use crate::state::source::{Origin, Source};
use crate::state::writer::Wish;
use crate::state::{Applied, Writer, decode};

impl Fixture {
    /// A node `here` of a fleet. The shared registry is the store itself; it takes no services while it is away.
    async fn of_fleet(is_away: &Arc<AtomicBool>) -> Self {
        let store = Arc::new(Store::in_memory());
        let node = Arc::new(FixedNode {
            store: Some(Arc::clone(&store)),
            ..FixedNode::default()
        });
        let (sender, mut wishes) = mpsc::channel::<Wish>(8);
        let (shared, is_away) = (Arc::clone(&store), Arc::clone(is_away));
        tokio::spawn(async move {
            while let Some(wish) = wishes.recv().await {
                let answer = if is_of_endpoint(&wish.change) {
                    apply(&shared, "here", wish.change)
                } else if is_away.load(Ordering::Relaxed) {
                    Err(Refusal::Unavailable("it is away".to_owned()))
                } else {
                    apply(&shared, "", wish.change)
                };
                drop(wish.answer.send(answer));
            }
        });
        let writer = Writer::shared(Arc::clone(&store), sender, "here");
        let server = Server::bind(config(), Arc::clone(&store), node).await;
        let server = server.unwrap().with_writer(writer);
        let stop = CancellationToken::new();
        Self {
            address: server.address(),
            metrics: server.metrics_address().unwrap(),
            counted: Metrics::default(),
            store,
            stop: stop.clone(),
            task: tokio::spawn(server.run(stop)),
        }
    }

    /// What another node has registered.
    fn elsewhere(&self, name: &str, spec: &Value) {
        let key = ObjectKey::new("default", name);
        let manifest = decode::manifest(Kind::Endpoint, &key, json!({ "spec": spec })).unwrap();
        apply(&self.store, "there", Change::Put(manifest)).unwrap();
    }

    fn address_of(&self, name: &str) -> String {
        let snapshot = self.store.snapshot();
        let endpoint = &snapshot.endpoints[&ObjectKey::new("default", name)];
        endpoint.spec.address.to_string()
    }
}

fn is_of_endpoint(change: &Change) -> bool {
    let kind = match change {
        Change::Put(manifest) => manifest.kind(),
        Change::Delete { kind, .. } => *kind,
        _ => return false,
    };
    kind == Kind::Endpoint
}

fn apply(store: &Store, place: &str, change: Change) -> Result<Applied, Refusal> {
    let origin = Origin {
        source: Source::Etcd,
        place: place.to_owned(),
    };
    store.apply_from(origin, change)
}

#[tokio::test]
async fn nodes_may_use_the_same_ids() {
    let fixture = Fixture::of_fleet(&Arc::default()).await;
    let checks = json!([{"id": "service:web", "ttl": "10s"}]);
    let spec = json!({"service": "web", "address": "10.0.0.2", "checks": checks});
    fixture.elsewhere("web", &spec);
    for path in [
        "/v1/agent/service/deregister/web",
        "/v1/agent/service/maintenance/web?enable=true",
        "/v1/agent/check/pass/service:web",
    ] {
        fixture.refuse(path, &Value::Null, 404, "Unknown").await;
    }
    let own = json!({"Name": "web", "Address": "10.0.0.3", "Check": {"TTL": "10s"}});
    for _ in 0..2 {
        fixture.accept("/v1/agent/service/register", &own).await;
    }
    let pass = "/v1/agent/check/pass/service:web";
    fixture.accept(pass, &Value::Null).await;
    let follower = json!({"Name": "follower", "Address": "10.0.0.3",
        "Check": {"AliasService": "web"}});
    fixture
        .accept("/v1/agent/service/register", &follower)
        .await;
    let found = fixture.seen("/v1/health/service/web").await;
    let seen: Vec<_> = found.as_array().unwrap().iter().collect();
    let seen = seen.iter().map(|it| {
        let (service, status) = (&it["Service"], &it["Checks"][1]["Status"]);
        let node = it["Node"]["Node"].as_str().unwrap();
        let [id, address] = ["ID", "Address"].map(|it| service[it].as_str().unwrap());
        (node, id, address, status.as_str().unwrap())
    });
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [
            ("there", "web", "10.0.0.2", "critical"),
            ("here", "web", "10.0.0.3", "passing")
        ]
    );
    let service = fixture.seen("/v1/agent/service/web").await;
    assert_eq!(service["Address"], "10.0.0.3");
    let snapshot = fixture.store.snapshot();
    let follower = &snapshot.endpoints[&ObjectKey::new("default", "follower")];
    let alias = follower.spec.checks[0].alias.as_ref().unwrap();
    let followed = alias.endpoint.clone().unwrap();
    assert_eq!(fixture.address_of(&followed), "10.0.0.3");
    let deregister = "/v1/agent/service/deregister/web";
    fixture.accept(deregister, &Value::Null).await;
    fixture
        .refuse(deregister, &Value::Null, 404, "Unknown")
        .await;
    assert_eq!(fixture.address_of("web"), "10.0.0.2");
    fixture.stop().await;
}

#[tokio::test]
async fn the_catalog_of_a_node_is_written_from_any_node() {
    let fixture = Fixture::of_fleet(&Arc::default()).await;
    let spec = json!({"service": "db", "address": "10.9.0.2", "locality": {"node": "far"}});
    fixture.elsewhere("db-1", &spec);
    let path = "/v1/catalog/register";
    let check = json!({"Node": "far", "Address": "10.9.0.1",
        "Check": {"CheckID": "alive", "Status": "passing", "ServiceID": "db-1"}});
    fixture.accept(path, &check).await;
    fixture.elsewhere("db-1", &spec);
    let body = |node: &str, address: &str| {
        json!({"Node": node, "Address": "10.9.0.1",
            "Service": {"ID": "db-1", "Service": "db", "Address": address}})
    };
    fixture.accept(path, &body("near", "10.9.0.3")).await;
    assert_eq!(fixture.address_of("db-1"), "10.9.0.2");
    fixture.accept(path, &body("far", "10.9.0.4")).await;
    assert_eq!(fixture.address_of("db-1"), "10.9.0.4");
    let found = fixture.seen("/v1/catalog/service/db").await;
    assert_eq!(found.as_array().unwrap().len(), 2);
    fixture.stop().await;
}

#[tokio::test]
async fn registrations_hold_while_the_shared_registry_is_away() {
    let is_away = Arc::new(AtomicBool::new(true));
    let fixture = Fixture::of_fleet(&is_away).await;
    let named = async |name: &str| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let expected = if name.is_empty() {
            json!({})
        } else {
            json!({name: []})
        };
        while services(&fixture) != expected {
            assert!(tokio::time::Instant::now() < deadline, "{expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let own = json!({"Name": "Web_1", "ID": "web-1", "Address": "10.0.0.3", "Port": 80});
    fixture.accept("/v1/agent/service/register", &own).await;
    assert_eq!(services(&fixture), json!({}));
    is_away.store(false, Ordering::Relaxed);
    named("Web_1").await;
    is_away.store(true, Ordering::Relaxed);
    fixture
        .accept("/v1/agent/service/deregister/web-1", &Value::Null)
        .await;
    assert_eq!(services(&fixture), json!({"Web_1": []}));
    is_away.store(false, Ordering::Relaxed);
    named("").await;
    fixture.stop().await;
}

/// The services that are there, by the names that were given.
fn services(fixture: &Fixture) -> Value {
    let snapshot = fixture.store.snapshot();
    let given = snapshot.services.values().map(|it| {
        let annotations = &it.metadata.annotations;
        let given = annotations.get("consul.mesh.dev/name");
        (given.unwrap_or(&it.metadata.name).clone(), json!([]))
    });
    Value::Object(given.collect())
}

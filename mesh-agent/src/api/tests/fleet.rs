//! Clients of Consul on a node that shares its registry with others.

use tokio::sync::mpsc;

use super::*;
use crate::state::source::{Origin, Source};
use crate::state::writer::Wish;
use crate::state::{Applied, Manifest, Writer, decode};

impl Fixture {
    /// A node `here` of a fleet. The shared registry is the store itself.
    async fn of_fleet() -> Self {
        let store = Arc::new(Store::in_memory());
        let node = Arc::new(FixedNode {
            store: Some(Arc::clone(&store)),
            ..FixedNode::default()
        });
        let (sender, mut wishes) = mpsc::channel::<Wish>(8);
        let shared = Arc::clone(&store);
        tokio::spawn(async move {
            while let Some(wish) = wishes.recv().await {
                let place = match &wish.change {
                    Change::Put(Manifest::Endpoint(_)) => "here",
                    _ => "",
                };
                drop(wish.answer.send(apply(&shared, place, wish.change)));
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

fn apply(store: &Store, place: &str, change: Change) -> Result<Applied, Refusal> {
    let origin = Origin {
        source: Source::Etcd,
        place: place.to_owned(),
    };
    store.apply_from(origin, change)
}

#[tokio::test]
async fn instances_of_other_nodes_are_theirs() {
    let fixture = Fixture::of_fleet().await;
    let checks = json!([{"id": "service:web", "ttl": "10s"}]);
    let spec = json!({"service": "web", "address": "10.0.0.2", "checks": checks});
    fixture.elsewhere("web", &spec);
    let own = json!({"Name": "web", "Address": "10.0.0.3"});
    let register = "/v1/agent/service/register";
    let refused = "registered on the node there";
    fixture.refuse(register, &own, 409, refused).await;
    for path in [
        "/v1/agent/service/deregister/web",
        "/v1/agent/service/maintenance/web?enable=true",
        "/v1/agent/check/pass/service:web",
    ] {
        fixture.refuse(path, &Value::Null, 404, "Unknown").await;
    }
    assert_eq!(fixture.address_of("web"), "10.0.0.2");
    let other = json!({"Name": "web", "ID": "web-here", "Address": "10.0.0.3"});
    fixture.accept(register, &other).await;
    fixture.accept(register, &other).await;
    assert_eq!(fixture.address_of("web-here"), "10.0.0.3");
    fixture.stop().await;
}

#[tokio::test]
async fn the_catalog_of_a_node_is_written_from_any_node() {
    let fixture = Fixture::of_fleet().await;
    let spec = json!({"service": "db", "address": "10.9.0.2", "locality": {"node": "far"}});
    fixture.elsewhere("db-1", &spec);
    let check = json!({"Node": "far", "Address": "10.9.0.1",
        "Check": {"CheckID": "alive", "Status": "passing", "ServiceID": "db-1"}});
    fixture.accept("/v1/catalog/register", &check).await;
    let body = |node: &str, address: &str| {
        json!({"Node": node, "Address": "10.9.0.1",
            "Service": {"ID": "db-1", "Service": "db", "Address": address}})
    };
    fixture.elsewhere("db-1", &spec);
    let path = "/v1/catalog/register";
    let refused = "registered on the node far";
    fixture
        .refuse(path, &body("near", "10.9.0.3"), 409, refused)
        .await;
    fixture.accept(path, &body("far", "10.9.0.3")).await;
    assert_eq!(fixture.address_of("db-1"), "10.9.0.3");
    fixture.stop().await;
}

//! What is counted where there is no room.

use std::net::Ipv4Addr;

use tokio::io::AsyncReadExt as _;

use super::*;
use crate::dns::Config;
use crate::dns::metrics::Metrics;
use crate::metrics::Registry;
use crate::net::conn::NoTable;
use crate::state::Store;

fn resolver(config: Config, registry: &mut Registry) -> Arc<Resolver> {
    let store = Arc::new(Store::in_memory());
    let metrics = Metrics::register(registry);
    let (conns, queries) = (Arc::new(NoTable), Arc::new(NoTable));
    let host = Arc::new(Netns::current().unwrap());
    Arc::new(Resolver::new(config, store, conns, queries, host, metrics))
}

#[tokio::test]
async fn connection_for_which_there_is_no_room_is_closed_and_counted() {
    let mut registry = Registry::new();
    let config = Config {
        max_queries: 0,
        ..Config::default()
    };
    let resolver = resolver(config, &mut registry);
    let realm = resolver.realm(Arc::new(Netns::current().unwrap()));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_streams(listener, resolver, realm));

    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);

    let expected = r#"mesh_dns_queries_total{transport="tcp",outcome="overloaded"} 1"#;
    let metrics = registry.encode().unwrap();
    assert!(metrics.contains(expected), "{metrics}");
}

#[test]
fn namespace_that_is_forgotten_leaves_no_answers_behind_in_the_metrics() {
    let mut registry = Registry::new();
    let resolver = resolver(Config::default(), &mut registry);
    resolver.metrics.cached(1);
    resolver.forget(7);
    let metrics = registry.encode().unwrap();
    assert!(metrics.contains("mesh_dns_cache_entries 0"), "{metrics}");
}

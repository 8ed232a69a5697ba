//! What is counted where there is no room.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
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

#[tokio::test]
async fn zone_of_a_stranger_is_refused_to_who_may_not_dial_it() {
    let resolver = resolver(Config::default(), &mut Registry::new());
    let realm = resolver.realm(Arc::new(Netns::current().unwrap()));
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("example.com.").unwrap();
    question.add_query(Query::query(name, RecordType::AXFR));
    let asked = Asked {
        resolver: "192.0.2.1:53".parse().unwrap(),
        // Nobody knows what it may.
        workload: 7,
        conn: mesh_common::conn::Conn::default(),
        transport: Transport::Tcp,
    };
    let question = question.to_vec().unwrap();
    let refused = resolver.transfer(&realm, &asked, &question).await;
    let answer = Message::from_vec(&refused.unwrap_err()).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    assert_eq!(answer.metadata.id, 7);
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

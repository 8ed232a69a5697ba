//! Opaque connections.

use super::*;
use crate::traffic::route::stream::{StreamRoute, StreamTable};

fn tls(name: &str, second: u32, hosts: &[&str]) -> Arc<StreamRoute> {
    let spec = json!({"hostnames": hosts, "rules": [{"backendRefs": [{"name": "a", "port": 1}]}]});
    let object = object("TLSRoute", name, second, &spec);
    Arc::new(StreamRoute::tls(&serde_json::from_value(object).unwrap()))
}

fn tcp(name: &str, second: u32) -> Arc<StreamRoute> {
    let object = object("TCPRoute", name, second, &json!({"rules": [{}]}));
    Arc::new(StreamRoute::tcp(&serde_json::from_value(object).unwrap()))
}

fn chosen(table: &StreamTable, name: Option<&str>) -> String {
    let route = table.choose(name);
    route.map_or_else(|| "none".to_owned(), |route| route.key.name.clone())
}

#[test]
fn the_most_specific_name_decides() {
    let table = StreamTable::new(vec![
        tls("late", 9, &["a.b.c"]),
        tls("exact", 1, &["a.b.c"]),
        tls("wild", 0, &["*.b.c", "*.c"]),
        tls("longer", 2, &["*.a.b.c"]),
        tls("rest", 0, &[]),
    ]);
    for (name, expected) in [
        (Some("A.b.c"), "exact"),
        (Some("x.b.c"), "wild"),
        (Some("x.y.c"), "wild"),
        (Some("x.a.b.c"), "longer"),
        (Some("c"), "rest"),
        (None, "rest"),
    ] {
        assert_eq!(chosen(&table, name), expected, "{name:?}");
    }
    assert!(table.needs_name());
}

#[test]
fn without_a_route_for_all_other_names_have_none() {
    let table = StreamTable::new(vec![tls("exact", 1, &["a"])]);
    assert_eq!(chosen(&table, Some("b")), "none");
    assert_eq!(chosen(&table, None), "none");
    let table = StreamTable::new(vec![tcp("b", 1), tcp("a", 1), tcp("late", 2)]);
    assert_eq!(chosen(&table, Some("b")), "a");
    assert_eq!(chosen(&table, None), "a");
    assert!(!table.needs_name());
}

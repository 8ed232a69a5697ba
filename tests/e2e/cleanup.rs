//! `mesh-agent cleanup` removes everything, also without a running agent, and says what.

use crate::shop::{Shop, cache};

#[test]
fn everything_is_removed_without_a_running_agent() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_cache();
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
    shop.node.agent().kill();
    assert!(shop.node.pin_dir().exists(), "pins outlive the agent");
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
    let output = shop.node.command(&["cleanup"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!output.stdout.is_empty(), "it says what it removed");
    let is_empty = std::fs::read_dir(shop.node.pin_dir()).is_ok_and(|mut dir| dir.next().is_none());
    assert!(is_empty || !shop.node.pin_dir().exists());
    assert!(shop.client.connect(cache()).is_err(), "no mesh any more");
    shop.server().serve_echo(9_000);
    shop.client
        .connect(shop.server().at(9_000))
        .unwrap()
        .echo("hello")
        .unwrap();
}

#[test]
fn a_clean_node_needs_no_clean_up() {
    let Some(mut shop) = Shop::open(0) else {
        return;
    };
    shop.node.agent().kill();
    for _ in 0..2 {
        let output = shop.node.command(&["cleanup"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

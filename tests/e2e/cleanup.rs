//! `mesh-agent cleanup` removes everything, also without a running agent, and says what.

use mesh_tests::assert_eventually;

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

#[test]
fn an_agent_that_runs_says_that_its_programs_were_taken_out() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_cache();
    shop.server().serve_echo(9_000);
    let output = shop.node.command(&["cleanup"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!shop.node.pin_dir().exists());
    let status = || shop.node.api().get("/api/v1/status");
    assert_eventually!(status()["ready"] == false);
    let pending = status()["pending"].to_string();
    assert!(pending.contains("cleanup"), "{pending}");
    let plain = shop.server().at(9_000);
    shop.client.connect(plain).unwrap().echo("hello").unwrap();
    assert!(shop.client.connect(cache()).is_err(), "no mesh any more");
    shop.node.restart_agent();
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
}

#[test]
fn no_agent_forgets_what_another_uses() {
    let Some(shop) = Shop::open(1) else {
        return;
    };
    shop.open_cache();
    let state = tempfile::tempdir().unwrap();
    for state_dir in [shop.node.state_dir(), state.path()] {
        let mut command = shop.node.command(&["run", "--reset"]);
        let output = command.env("MESH_STATE_DIR", state_dir).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("in use"),
            "{said}"
        );
    }
    shop.client.connect(cache()).unwrap().echo("hello").unwrap();
}

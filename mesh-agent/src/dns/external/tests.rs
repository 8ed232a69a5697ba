//! What becomes of an answer that came in part.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::lookup::{Family, Found};
use super::{SHORTEST, completed, plan};
use crate::state::Store;

fn found(list: &[&str], unknown: Option<Family>) -> Found {
    Found {
        addresses: addresses(list),
        ttl: Duration::from_mins(1),
        unknown,
    }
}

fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|it| it.parse().unwrap()).collect()
}

#[test]
fn family_whose_answer_was_lost_keeps_its_last_addresses() {
    let store = Store::in_memory();
    plan::tests::pattern(&store, "api.example.com", 1);
    let both = addresses(&["192.0.2.1", "2001:db8::1"]);
    plan::tests::follow(&store, Some(Ok(&both)));

    let lost = found(&["192.0.2.1"], Some(Family::V6));
    let completed = completed(&store.snapshot(), "api.example.com", lost);

    assert_eq!((completed.addresses, completed.ttl), (both, SHORTEST));
}

#[test]
fn family_that_was_never_there_is_not_asked_for_again_and_again() {
    let store = Store::in_memory();
    plan::tests::pattern(&store, "api.example.com", 1);
    plan::tests::follow(&store, Some(Ok(&addresses(&["192.0.2.1"]))));
    let snapshot = store.snapshot();

    let lost = || found(&["192.0.2.1"], Some(Family::V6));
    assert_eq!(completed(&snapshot, "api.example.com", lost()), lost());
    let other = found(&["192.0.2.9"], Some(Family::V4));
    let other = completed(&snapshot, "other.example.com", other);
    assert_eq!(other.addresses, addresses(&["192.0.2.9"]));
}

//! The object file holds what `mesh-common` names, in the sizes that it says.

use std::collections::BTreeSet;

use mesh_common::conn::{Conn, Tuple};
use mesh_common::flow::{Flow, FlowKey, Query, QueryKey};
use mesh_common::names::{map, program};
use mesh_common::policy::{Policy, PolicyKey};
use mesh_common::redirect::{Peer, Redirect};
use mesh_common::settings::Settings;

use super::OBJECT;

fn object() -> Option<aya_obj::Object> {
    if OBJECT.is_empty() {
        println!("skipped: built without the BPF toolchain, so there is no object file");
        return None;
    }
    Some(aya_obj::Object::parse(OBJECT).expect("the object file parses"))
}

#[test]
fn every_program_is_there_and_no_other() {
    let Some(object) = object() else { return };
    let found: BTreeSet<&str> = object.programs.keys().map(String::as_str).collect();
    assert_eq!(found, BTreeSet::from(program::ALL));
}

#[test]
fn every_map_is_there() {
    let Some(object) = object() else { return };
    for name in map::ALL {
        assert!(object.maps.contains_key(name), "{name}");
    }
}

#[test]
fn maps_have_the_sizes_of_their_types() {
    let Some(object) = object() else { return };
    for (name, key, value) in [
        (map::SETTINGS, 4, size_of::<Settings>()),
        (map::CONN, 4, size_of::<Conn>()),
        (map::REDIRECTS, 4, size_of::<Redirect>()),
        (map::PENDING, size_of::<Tuple>(), size_of::<Conn>()),
        (map::PEERS, size_of::<Tuple>(), size_of::<Peer>()),
        (map::POLICY, size_of::<PolicyKey>(), size_of::<Policy>()),
        (map::REPLIES, size_of::<FlowKey>(), size_of::<Flow>()),
        (map::QUERIES, size_of::<QueryKey>(), size_of::<Query>()),
    ] {
        let map = &object.maps[name];
        let sizes = (map.key_size(), map.value_size());
        let expected = (u32::try_from(key), u32::try_from(value));
        assert_eq!((Ok(sizes.0), Ok(sizes.1)), expected, "{name}");
    }
}

#[test]
fn names_fit_into_the_kernel() {
    for name in map::ALL.iter().chain(&program::ALL) {
        assert!(name.len() <= 15, "{name}");
    }
}

//! The transaction that makes a change in etcd, only if nobody else was faster; and what its failure means.
//!
//! A virtual address belongs to the service whose name its key holds. It is taken and given back together with the
//! object, so that no two nodes give the same one away.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::document;
use super::intake::allotted;
use super::layout::Layout;
use super::link::Value;
use super::wire::{Compare, Number, Operation, Text, Transacted, Transaction};
use crate::state::Manifest;
use crate::state::change::Applied;
use crate::state::object::{Kind, ObjectKey};

/// A transaction, and what it is about.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) transaction: Transaction,
    /// Key of the object.
    object: String,
    /// The allotted addresses that the object will have.
    pub(super) addresses: Vec<IpAddr>,
    /// Those of them that it did not have before, with their keys.
    claims: Vec<(IpAddr, String)>,
    /// What the key of an address of this object holds.
    owner: String,
    /// The write that has made the object as this node knows it; zero: there is none.
    pub(super) expected: i64,
}

/// Why a transaction has failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The write by which somebody else has changed the object; zero: it is there no more.
    pub(super) other_version: Option<i64>,
    /// Addresses that belong to other services.
    pub(super) taken: BTreeSet<IpAddr>,
    /// Addresses that are this service's already: left from an earlier one of its name.
    pub(super) held: BTreeSet<IpAddr>,
}

/// The transaction for a change that the store of this node would make to what is `known`.
/// `held`: addresses that are known to be this service's already.
pub(super) fn plan(
    layout: &Layout,
    applied: &Applied,
    known: &Value,
    held: &BTreeSet<IpAddr>,
) -> Option<Plan> {
    let object = match applied {
        Applied::Created(object) | Applied::Changed(object) | Applied::Deleted(object) => object,
        Applied::Unchanged => return None,
    };
    if matches!(applied, Applied::Deleted(_)) {
        return Some(removal(layout, object.kind(), &object.key(), known));
    }
    put(layout, object, known, held)
}

fn put(layout: &Layout, object: &Manifest, known: &Value, held: &BTreeSet<IpAddr>) -> Option<Plan> {
    let key = layout.object(object.kind(), &object.key());
    let addresses = allotted(object).unwrap_or_default();
    let owner = object.key().to_string();
    let is_new = |address: &&IpAddr| !known.addresses.contains(*address);
    let claims: Vec<_> = addresses
        .iter()
        .filter(is_new)
        .map(|address| (*address, layout.address(*address)))
        .collect();
    let mut compare = vec![Compare::is_at(&key, known.revision)];
    let mut success = vec![Operation::Put {
        key: key.as_str().into(),
        value: Text(document::write(object, "").ok()?),
        lease: Number(0),
    }];
    let mut failure = vec![get(&key)];
    for (address, claim) in &claims {
        compare.push(if held.contains(address) {
            Compare::holds(claim, &owner)
        } else {
            Compare::is_at(claim, 0)
        });
        success.push(Operation::Put {
            key: claim.as_str().into(),
            value: owner.as_str().into(),
            lease: Number(0),
        });
        failure.push(get(claim));
    }
    let given_back = known.addresses.iter().filter(|it| !addresses.contains(it));
    success.extend(given_back.map(|it| delete(&layout.address(*it))));
    Some(Plan {
        transaction: Transaction {
            compare,
            success,
            failure,
        },
        object: key,
        addresses,
        claims,
        owner,
        expected: known.revision,
    })
}

fn removal(layout: &Layout, kind: Kind, key: &ObjectKey, known: &Value) -> Plan {
    let object = layout.object(kind, key);
    let mut success = vec![delete(&object)];
    if kind == Kind::Endpoint {
        success.push(delete(&layout.health(key)));
    }
    let addresses = known.addresses.iter();
    success.extend(addresses.map(|it| delete(&layout.address(*it))));
    Plan {
        transaction: Transaction {
            compare: vec![Compare::is_at(&object, known.revision)],
            success,
            failure: vec![get(&object)],
        },
        object,
        addresses: Vec::new(),
        claims: Vec::new(),
        owner: key.to_string(),
        expected: known.revision,
    }
}

/// What the answer to a transaction that has failed says.
pub(super) fn found(plan: &Plan, answer: &Transacted) -> Found {
    let mut found = Found::default();
    let mut revision = 0;
    for kv in answer.found() {
        if kv.key.0 == plan.object.as_bytes() {
            revision = kv.mod_revision.0;
        }
        let claim = plan
            .claims
            .iter()
            .find(|(_, key)| kv.key.0 == key.as_bytes());
        if let Some((address, _)) = claim {
            let is_held = kv.value.0 == plan.owner.as_bytes();
            let side = if is_held {
                &mut found.held
            } else {
                &mut found.taken
            };
            side.insert(*address);
        }
    }
    found.other_version = Some(revision).filter(|it| *it != plan.expected);
    found
}

fn get(key: &str) -> Operation {
    Operation::Get { key: key.into() }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::{Change, Store, decode};

    fn web() -> ObjectKey {
        ObjectKey::new("shop", "web")
    }

    fn service(spec: &serde_json::Value) -> Manifest {
        let object = decode::manifest(Kind::Service, &web(), json!({"spec": spec})).unwrap();
        match Store::in_memory().apply(Change::Put(object)).unwrap() {
            Applied::Created(object) => object,
            other => panic!("{other:?}"),
        }
    }

    fn planned(object: &Manifest, known: &Value) -> Plan {
        put(&Layout::new("mesh"), object, known, &BTreeSet::new()).unwrap()
    }

    fn answer(kvs: &[(&str, &str, i64)]) -> Transacted {
        let kvs = kvs.iter().map(|(key, value, revision)| {
            let (key, value) = (Text::from(*key), Text::from(*value));
            json!({"response_range": {"kvs": [{"key": key, "value": value, "mod_revision": revision}]}})
        });
        serde_json::from_value(json!({"responses": kvs.collect::<Vec<_>>()})).unwrap()
    }

    #[test]
    fn new_service_takes_its_addresses_in_the_same_transaction() {
        let object = service(&json!({"ports": [{"name": "http", "port": 80}]}));

        let plan = planned(&object, &Value::default());

        assert_eq!(plan.addresses.len(), 2, "one of each range");
        let claim = format!("mesh/addresses/{}", plan.addresses[0]);
        let Transaction {
            compare, success, ..
        } = &plan.transaction;
        assert_eq!(
            compare[0],
            Compare::is_at("mesh/objects/Service/shop/web", 0)
        );
        assert_eq!(compare[1], Compare::is_at(&claim, 0));
        let put = Operation::Put {
            key: claim.as_str().into(),
            value: "shop/web".into(),
            lease: Number(0),
        };
        assert!(success.contains(&put), "{success:?}");
    }

    #[test]
    fn known_addresses_are_kept_and_given_back_when_the_service_brings_its_own() {
        let object = service(&json!({"ports": [{"name": "http", "port": 80}]}));
        let known = Value {
            revision: 7,
            addresses: allotted(&object).unwrap(),
        };
        let kept = planned(&object, &known).transaction;
        assert_eq!((kept.compare.len(), kept.success.len()), (1, 1));

        let own =
            service(&json!({"ports": [{"name": "http", "port": 80}], "addresses": ["10.9.0.1"]}));
        let given_back = planned(&own, &known).transaction;
        assert_eq!(given_back.compare.len(), 1);
        let deletes = given_back
            .success
            .iter()
            .filter(|it| matches!(it, Operation::Delete { .. }));
        assert_eq!(deletes.count(), 2);

        let removed = removal(&Layout::new("mesh"), Kind::Service, &web(), &known).transaction;
        assert_eq!(
            removed.compare,
            [Compare::is_at("mesh/objects/Service/shop/web", 7)]
        );
        assert_eq!(removed.success.len(), 3);
    }

    #[test]
    fn failure_says_who_was_faster() {
        let object = service(&json!({"ports": [{"name": "http", "port": 80}]}));
        let plan = planned(&object, &Value::default());
        let [first, second] = plan.addresses[..] else {
            panic!("two addresses")
        };
        let claims = [first, second].map(|it| format!("mesh/addresses/{it}"));

        let faster = found(
            &plan,
            &answer(&[("mesh/objects/Service/shop/web", "{}", 9)]),
        );
        assert_eq!(faster.other_version, Some(9));
        assert!(faster.taken.is_empty());

        let taken = found(
            &plan,
            &answer(&[(&claims[0], "shop/api", 3), (&claims[1], "shop/web", 3)]),
        );
        assert_eq!(taken.taken, BTreeSet::from([first]));
        assert_eq!(
            taken.held,
            BTreeSet::from([second]),
            "left from an earlier one"
        );
        assert_eq!(taken.other_version, None);

        let known = Value {
            revision: 7,
            addresses: allotted(&object).unwrap(),
        };
        let gone = found(&planned(&object, &known), &answer(&[]));
        assert_eq!(gone.other_version, Some(0));
    }
}

//! What the maps are derived from, and what a step from one such basis to the next concerns: a change costs what it
//! touches, not what the registry holds. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::desired::{Desired, Enrolled, Place};
use crate::state::Snapshot;
use crate::state::affected::Affected;
use crate::state::object::{Kind, ObjectKey};
use crate::traffic::authz;
use crate::traffic::authz::Compiled;

/// A snapshot, who is enrolled, and what follows from it for policy.
#[derive(Debug)]
pub(super) struct Basis {
    snapshot: Arc<Snapshot>,
    enrolled: Enrolled,
    pub(super) policies: Compiled,
}

/// What a step concerns, as it should be before it and after. What is in neither stays as it is.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) before: Desired,
    pub(super) after: Desired,
}

impl Basis {
    pub(super) fn new(snapshot: Arc<Snapshot>, enrolled: &Enrolled) -> Self {
        Self {
            policies: authz::compile(&snapshot),
            enrolled: enrolled.clone(),
            snapshot,
        }
    }

    /// Everything that the maps should hold.
    pub(super) fn desired(&self) -> Desired {
        let (services, workloads) = (
            self.snapshot.services.iter(),
            self.snapshot.workloads.iter(),
        );
        let mut desired = Desired::of(&self.snapshot, &self.enrolled, services, workloads);
        let policies = self.policies.policies.iter();
        desired.policies = policies.map(|(key, it)| (*key, Arc::clone(it))).collect();
        desired
    }

    /// The basis that follows, and what lies between.
    pub(super) fn next(&self, snapshot: Arc<Snapshot>, enrolled: &Enrolled) -> (Self, Step) {
        let mut affected = Affected::between(&self.snapshot, &snapshot);
        affected.workloads.extend(self.moved(enrolled));
        let policies = self.policies.next(&self.snapshot, &snapshot, &affected);
        let next = Self {
            snapshot,
            enrolled: enrolled.clone(),
            policies,
        };
        let snapshots: [&Snapshot; 2] = [&self.snapshot, &next.snapshot];
        let places = [&self.enrolled.places, &next.enrolled.places];
        add_rivals(&mut affected.services, |key| {
            let rivals = snapshots.into_iter().map(|it| rivals(it, key));
            rivals.flatten().collect()
        });
        add_rivals(&mut affected.workloads, |key| {
            let neighbours = snapshots.into_iter().map(|it| neighbours(it, key));
            let mates = places.into_iter().map(|it| mates(it, key));
            neighbours.chain(mates).flatten().collect()
        });
        let mut step = Step {
            before: self.part(&affected),
            after: next.part(&affected),
        };
        for change in self.policies.policies.diff(&next.policies.policies) {
            let (old, new) = match change {
                DiffItem::Add(key, new) => (None, Some((key, new))),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
                DiffItem::Remove(key, old) => (Some((key, old)), None),
            };
            let owned = |(key, policy): (&_, &Arc<_>)| (*key, Arc::clone(policy));
            step.before.policies.extend(old.map(owned));
            step.after.policies.extend(new.map(owned));
        }
        (next, step)
    }

    /// Workloads that are found elsewhere, or that the node treats otherwise.
    fn moved<'a>(&'a self, enrolled: &'a Enrolled) -> impl Iterator<Item = ObjectKey> + 'a {
        let is_alike = self.enrolled.is_accelerated == enrolled.is_accelerated
            && self.enrolled.answers_names == enrolled.answers_names;
        let known = self.enrolled.places.keys().chain(enrolled.places.keys());
        known
            .filter(move |key| {
                !is_alike || self.enrolled.places.get(*key) != enrolled.places.get(*key)
            })
            .cloned()
    }

    /// What follows from some objects.
    fn part(&self, affected: &Affected) -> Desired {
        let snapshot = &self.snapshot;
        let services = affected.services.iter();
        let services = services.filter_map(|key| snapshot.services.get_key_value(key));
        let workloads = affected.workloads.iter();
        let workloads = workloads.filter_map(|key| snapshot.workloads.get_key_value(key));
        Desired::of(snapshot, &self.enrolled, services, workloads)
    }
}

/// Adds to `keys` all who claim an entry of one of them: of several, the first has it. That is rare, where it is not an
/// error.
fn add_rivals(keys: &mut BTreeSet<ObjectKey>, rivals: impl Fn(&ObjectKey) -> BTreeSet<ObjectKey>) {
    let mut last = keys.clone();
    while !last.is_empty() {
        last = last
            .iter()
            .flat_map(&rivals)
            .filter(|key| !keys.contains(key))
            .collect();
        keys.extend(last.iter().cloned());
    }
}

/// The services with a virtual address of a service, and the headless ones with an endpoint where a headless one has one.
fn rivals(snapshot: &Snapshot, key: &ObjectKey) -> BTreeSet<ObjectKey> {
    let Some(service) = snapshot.services.get(key) else {
        return BTreeSet::new();
    };
    let addresses = service.virtual_addresses().iter();
    let mut rivals: BTreeSet<ObjectKey> = addresses
        .flat_map(|address| snapshot.services_at(*address))
        .cloned()
        .collect();
    if service.spec.headless {
        let endpoints = snapshot.endpoints_of(key);
        let others = endpoints.flat_map(|it| snapshot.holders_of(it.spec.address));
        let others = others.filter(|(kind, _)| *kind == Kind::Endpoint);
        let served = others.filter_map(|(_, key)| Some(snapshot.endpoints.get(key)?.service_key()));
        rivals.extend(served.filter(|key| {
            let service = snapshot.services.get(key);
            service.is_some_and(|it| it.spec.headless)
        }));
    }
    rivals
}

/// The workloads with an address of a workload.
fn neighbours(snapshot: &Snapshot, key: &ObjectKey) -> BTreeSet<ObjectKey> {
    let workload = snapshot.workloads.get(key);
    let addresses = workload.into_iter().flat_map(|it| &it.spec.addresses);
    let holders = addresses.flat_map(|address| snapshot.holders_of(*address));
    holders
        .filter(|(kind, _)| *kind == Kind::Workload)
        .map(|(_, key)| key.clone())
        .collect()
}

/// The workloads at the place of a workload.
fn mates(places: &BTreeMap<ObjectKey, Place>, key: &ObjectKey) -> BTreeSet<ObjectKey> {
    let Some(place) = places.get(key) else {
        return BTreeSet::new();
    };
    let mates = places.iter().filter(|(_, other)| *other == place);
    mates.map(|(key, _)| key.clone()).collect()
}

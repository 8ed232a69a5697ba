//! L4 authorization: compiles policies into the rules by which the kernel, the proxy and `explain` decide.
//!
//! A policy for a service holds at each of its virtual addresses and ports, and at each endpoint's address and port, so
//! that dialling the endpoint does not go around it. A policy for a workload holds at the workload's addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;
use mesh_common::address::{Address, SocketAddress};
use mesh_common::policy::{Authorization, MAX_RULES, Policy, PolicyKey, Rule};
use mesh_common::service::TCP;
use mesh_common::workload::Caller;

use crate::state::Snapshot;
use crate::state::affected::Affected;
use crate::state::id::Subject;
use crate::state::object::{Kind, ObjectKey};

mod expand;
mod target;

use expand::expand;
use target::Target;

#[cfg(test)]
mod tests;

/// All policies of a snapshot, by what they protect. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The rules of each protected address and port; port 0 is a whole workload. The endpoints of a service share theirs.
    pub policies: OrdMap<PolicyKey, Arc<Policy>>,
    /// Policies that are not in force as written at a key, because more than [`MAX_RULES`] rules meet there. Audited
    /// rules are left out first; where that is not enough, the key admits nobody.
    excess: OrdMap<PolicyKey, BTreeSet<ObjectKey>>,
}

impl Compiled {
    /// What policy says of a caller at `source` that dials `destination` over TCP: as a service's port or endpoint, and as a
    /// workload.
    #[must_use]
    pub fn authorize(
        &self,
        caller: &Caller,
        source: &Address,
        destination: SocketAddress,
    ) -> Authorization {
        let mut said = Authorization::default();
        for key in [
            PolicyKey::port(&destination, TCP),
            PolicyKey::workload(destination.address),
        ] {
            if let Some(policy) = self.policies.get(&key) {
                let one = policy.authorize(caller, source, destination.port);
                said.is_denied |= one.is_denied;
                said.is_audited |= one.is_audited;
            }
        }
        said.is_audited &= !said.is_denied;
        said
    }

    /// The policies that are not in force as written.
    #[must_use]
    pub fn too_many(&self) -> BTreeSet<ObjectKey> {
        self.excess.values().flatten().cloned().collect()
    }

    /// What follows these, which were compiled from `old`, for `new`: only keys of those are looked at whom the step
    /// concerns.
    #[must_use]
    pub fn next(&self, old: &Snapshot, new: &Snapshot, affected: &Affected) -> Self {
        let services = affected.services.iter().map(|key| (Kind::Service, key));
        let workloads = affected.workloads.iter().map(|key| (Kind::Workload, key));
        let targets = affected.protected.iter().map(|(kind, key)| (*kind, key));
        let keys: BTreeSet<PolicyKey> = services
            .chain(workloads)
            .chain(targets)
            .flat_map(|(kind, key)| [(old, kind, key), (new, kind, key)])
            .filter(|(snapshot, kind, key)| snapshot.is_protected(*kind, key))
            .flat_map(|(snapshot, kind, key)| target::protected(snapshot, &(kind, key.clone())))
            .map(|(key, _)| key)
            .collect();
        if keys.is_empty() {
            return self.clone();
        }
        let mut next = self.clone();
        let mut shared = Shared::default();
        for key in &keys {
            next.excess.remove(key);
            if let Some(policy) = next.policies.remove(key) {
                shared.know(policy);
            }
        }
        let targets = keys
            .iter()
            .flat_map(|key| target::targets_at(new, key.address))
            .filter(|(kind, key)| new.is_protected(*kind, key))
            .collect();
        next.put(merge(new, &targets, |key| keys.contains(key)), &mut shared);
        next
    }

    fn put(&mut self, merged: Merged<'_>, shared: &mut Shared) {
        for (key, rules) in merged {
            let mut too_many = BTreeSet::new();
            if let Some(policy) = shared.policy(&fit(rules, &mut too_many)) {
                self.policies.insert(key, policy);
            }
            if !too_many.is_empty() {
                self.excess.insert(key, too_many);
            }
        }
    }
}

/// The rules that meet at each key.
type Merged<'a> = BTreeMap<PolicyKey, Vec<Sourced<'a>>>;

/// The rules of the policies for `targets`, at the keys that are wanted.
fn merge<'a>(
    snapshot: &'a Snapshot,
    targets: &BTreeSet<Target>,
    is_wanted: impl Fn(&PolicyKey) -> bool,
) -> Merged<'a> {
    let mut merged = Merged::new();
    for target in targets {
        let mut protected = target::protected(snapshot, target);
        protected.retain(|(key, _)| is_wanted(key));
        for (key, policy) in snapshot.policies_for(target.0, &target.1) {
            let number = snapshot.ids.number(&Subject::Policy(key.clone()));
            let mut last = None;
            for (address, port) in &protected {
                // Neighbours have the same port: a service's endpoints differ in the address only.
                if last.as_ref().is_none_or(|(of, _)| of != port) {
                    last = Some((*port, expand(policy, *port, &snapshot.ids, number)));
                }
                if let Some((_, rules)) = &last {
                    let list = merged.entry(*address).or_default();
                    list.extend(rules.iter().map(|rule| Sourced { rule: *rule, key }));
                }
            }
        }
    }
    merged
}

/// Compiles every policy of `snapshot`.
#[must_use]
pub fn compile(snapshot: &Snapshot) -> Compiled {
    let mut compiled = Compiled::default();
    let merged = merge(snapshot, &target::targets(snapshot), |_| true);
    compiled.put(merged, &mut Shared::default());
    compiled
}

/// The policies that speak of any of `destinations`, each of which may be a service's port, an endpoint or a workload,
/// dialled over the IP protocol with number `protocol`.
#[must_use]
pub fn policies_for(
    snapshot: &Snapshot,
    destinations: impl IntoIterator<Item = SocketAddress>,
    protocol: u8,
) -> BTreeSet<ObjectKey> {
    let mut asked: BTreeMap<Target, BTreeSet<PolicyKey>> = BTreeMap::new();
    for destination in destinations {
        let keys = [
            PolicyKey::workload(destination.address),
            PolicyKey::port(&destination, protocol),
        ];
        for target in target::targets_at(snapshot, destination.address) {
            asked.entry(target).or_default().extend(keys);
        }
    }
    asked.retain(|(kind, key), _| snapshot.is_protected(*kind, key));
    asked.retain(|target, keys| {
        let protected = target::protected(snapshot, target);
        protected.iter().any(|(key, _)| keys.contains(key))
    });
    let policies = asked
        .keys()
        .flat_map(|(kind, key)| snapshot.policies_for(*kind, key));
    policies.map(|(key, _)| key.clone()).collect()
}

/// A rule and the policy that it comes from.
struct Sourced<'a> {
    rule: Rule,
    key: &'a ObjectKey,
}

/// Policies by their rules. A policy has room for all rules it may have, so that thousands of equal ones would cost
/// much.
#[derive(Debug, Default)]
pub struct Shared(HashMap<Vec<Rule>, Arc<Policy>>);

impl Shared {
    /// Takes note of a policy that is there.
    fn know(&mut self, policy: Arc<Policy>) {
        if let Some(rules) = policy.rules.get(..policy.count as usize) {
            self.0.insert(rules.to_vec(), policy);
        }
    }

    /// The policy of `rules`, of which the first [`MAX_RULES`] count; none, if there are none.
    pub fn policy(&mut self, rules: &[Rule]) -> Option<Arc<Policy>> {
        if rules.is_empty() {
            return None;
        }
        if let Some(policy) = self.0.get(rules) {
            return Some(Arc::clone(policy));
        }
        let mut policy = Policy::EMPTY;
        for (slot, rule) in policy.rules.iter_mut().zip(rules) {
            *slot = *rule;
            policy.count += 1;
        }
        let policy = Arc::new(policy);
        self.0.insert(rules.to_vec(), Arc::clone(&policy));
        Some(policy)
    }
}

/// Makes the rules of a key fit in one policy.
fn fit(mut rules: Vec<Sourced<'_>>, too_many: &mut BTreeSet<ObjectKey>) -> Vec<Rule> {
    let mut seen = BTreeSet::new();
    rules.retain(|Sourced { rule, .. }| {
        seen.insert((
            rule.flags,
            rule.port,
            rule.caller.namespace,
            rule.caller.service_account,
            rule.network,
            rule.prefix,
        ))
    });
    if rules.len() > MAX_RULES {
        rules.retain(|sourced| {
            let is_audited = sourced.rule.flags & Rule::AUDIT != 0;
            if is_audited {
                too_many.insert(sourced.key.clone());
            }
            !is_audited
        });
    }
    if rules.len() > MAX_RULES {
        too_many.extend(rules.iter().map(|sourced| sourced.key.clone()));
        return vec![Rule {
            flags: Rule::NOBODY,
            ..Rule::default()
        }];
    }
    rules.into_iter().map(|sourced| sourced.rule).collect()
}

//! What follows from a write: the status of the object, of those that refer to it, and the numbers for the kernel.

pub(super) mod addresses;
mod dependencies;
pub(super) mod life;
mod reference_grant;
mod route;
mod traffic_policy;

use std::collections::BTreeSet;

use super::draft::{Draft, upsert};
use super::endpoint::Endpoint;
use super::grpc_route::GrpcRoute;
use super::http_route::HttpRoute;
use super::id::Subject;
use super::life::Standing;
use super::links::{Node, Role};
use super::object::{Condition, ConditionStatus, Kind, ObjectKey};
use super::policy::{Action, AuthorizationPolicy};
use super::reference::Route;
use super::resource::Resource;
use super::service::Service;
use super::source::Source;
use super::store::Config;
use super::stream_route::{TcpRoute, TlsRoute};
use super::traffic_policy::TrafficPolicy;
use super::workload::Workload;
use super::{Refusal, Snapshot};

/// The part of a write that depends on the kind.
pub(super) trait Settle: Resource {
    /// Takes over what a shared registry has settled for every node, and says whether that is new.
    fn adopt(&mut self, _shared: &Self) -> bool {
        false
    }

    /// Fills in the status before the object is written.
    fn judge(&mut self, snapshot: &Snapshot, config: &Config) -> Result<(), Refusal>;

    /// Brings what depends on the time up to date, before the object is written at `now`.
    fn live(&mut self, _now: &str) {}

    /// What is said of it in its last version, at `now`.
    fn say_farewell(&mut self, _now: &str) {}

    /// Gives numbers and tells those that refer to the object, once it is written over `old`.
    fn arrive(&self, old: Option<&Self>, draft: &mut Draft);

    /// The same once it is gone.
    fn leave(&self, draft: &mut Draft);
}

impl Settle for Service {
    fn adopt(&mut self, shared: &Self) -> bool {
        let theirs = &shared.status.addresses;
        if theirs.is_empty() || *theirs == self.status.addresses {
            return false;
        }
        self.status.addresses.clone_from(theirs);
        true
    }

    fn judge(&mut self, snapshot: &Snapshot, config: &Config) -> Result<(), Refusal> {
        self.status.addresses = if !self.spec.is_virtual() || !self.spec.addresses.is_empty() {
            self.spec.addresses.clone()
        } else if self.metadata.source == Source::Etcd && !self.status.addresses.is_empty() {
            // Settled for every node, and perhaps from ranges that only others have.
            addresses::shared(self, snapshot)?
        } else {
            addresses::allotted(self, snapshot, config)?
        };
        life::judge_service(self, snapshot);
        dependencies::judge(self, snapshot);
        let programmed = condition(self, "Programmed", Ok("Programmed"));
        let accepted = condition(self, ACCEPTED, Ok(ACCEPTED));
        upsert(self.conditions_mut(), accepted);
        upsert(self.conditions_mut(), programmed);
        Ok(())
    }

    fn live(&mut self, now: &str) {
        if let Some(availability) = &mut self.status.availability
            && availability.since.is_empty()
        {
            now.clone_into(&mut availability.since);
        }
    }

    fn arrive(&self, old: Option<&Self>, draft: &mut Draft) {
        let key = self.key();
        draft.assign(Subject::Namespace(key.namespace.clone()));
        draft.assign(Subject::Service(key.clone()));
        let wanted = self.spec.ports.iter().map(|it| it.name.clone()).collect();
        number_ports(draft, &wanted, |name| Subject::Port(key.clone(), name));
        tell_about_service(draft, &key);
        dependencies::tell(draft, &key, old);
    }

    fn leave(&self, draft: &mut Draft) {
        let key = self.key();
        draft.forget(&Subject::Service(key.clone()));
        number_ports(draft, &BTreeSet::new(), |name| {
            Subject::Port(key.clone(), name)
        });
        tell_about_service(draft, &key);
        dependencies::tell(draft, &key, Some(self));
    }
}

impl Settle for Endpoint {
    fn judge(&mut self, snapshot: &Snapshot, _config: &Config) -> Result<(), Refusal> {
        let accepted = condition(self, ACCEPTED, Ok(ACCEPTED));
        let resolved = endpoint_refs(self, snapshot);
        upsert(self.conditions_mut(), accepted);
        upsert(self.conditions_mut(), resolved);
        Ok(())
    }

    fn live(&mut self, now: &str) {
        self.stand(now);
    }

    fn say_farewell(&mut self, now: &str) {
        let reason = "it was deleted".to_owned();
        self.status.stands(Standing::Gone, reason, now);
    }

    fn arrive(&self, old: Option<&Self>, draft: &mut Draft) {
        draft.assign(Subject::Namespace(self.metadata.namespace.clone()));
        number_endpoint(draft, self);
        life::tell_service(draft, old, Some(self));
        traffic_policy::tell_subsets(draft, old, Some(self));
    }

    fn leave(&self, draft: &mut Draft) {
        let key = self.key();
        number_ports(draft, &BTreeSet::new(), |name| {
            Subject::Endpoint(key.clone(), name)
        });
        life::tell_service(draft, Some(self), None);
        traffic_policy::tell_subsets(draft, Some(self), None);
    }
}

impl Settle for Workload {
    fn judge(&mut self, _snapshot: &Snapshot, _config: &Config) -> Result<(), Refusal> {
        let accepted = condition(self, ACCEPTED, Ok(ACCEPTED));
        upsert(self.conditions_mut(), accepted);
        Ok(())
    }

    fn arrive(&self, _old: Option<&Self>, draft: &mut Draft) {
        let key = self.key();
        draft.assign(Subject::Namespace(key.namespace.clone()));
        draft.assign(Subject::ServiceAccount(self.spec.service_account.clone()));
        draft.assign(Subject::Workload(key.clone()));
        tell_referrers(draft, Role::Target, Kind::Workload, &key);
    }

    fn leave(&self, draft: &mut Draft) {
        let key = self.key();
        draft.forget(&Subject::Workload(key.clone()));
        tell_referrers(draft, Role::Target, Kind::Workload, &key);
    }
}

impl Settle for AuthorizationPolicy {
    fn judge(&mut self, snapshot: &Snapshot, _config: &Config) -> Result<(), Refusal> {
        let accepted = policy_effect(self);
        let resolved = policy_refs(self, snapshot);
        upsert(self.conditions_mut(), accepted);
        upsert(self.conditions_mut(), resolved);
        Ok(())
    }

    fn arrive(&self, _old: Option<&Self>, draft: &mut Draft) {
        draft.assign(Subject::Policy(self.key()));
        draft.assign(Subject::Namespace(self.metadata.namespace.clone()));
        // Names that nobody bears yet have numbers too: a rule about them is in force before they come.
        for source in self.spec.rules.iter().flat_map(|rule| &rule.from) {
            for namespace in &source.namespaces {
                draft.assign(Subject::Namespace(namespace.clone()));
            }
            for account in &source.service_accounts {
                draft.assign(Subject::ServiceAccount(account.clone()));
            }
        }
    }

    fn leave(&self, draft: &mut Draft) {
        draft.forget(&Subject::Policy(self.key()));
    }
}

impl Settle for TrafficPolicy {
    fn judge(&mut self, snapshot: &Snapshot, _config: &Config) -> Result<(), Refusal> {
        for condition in traffic_policy::conditions(self, snapshot) {
            upsert(self.conditions_mut(), condition);
        }
        Ok(())
    }

    fn arrive(&self, old: Option<&Self>, draft: &mut Draft) {
        if let Some(old) = old.filter(|old| old.spec.target != self.spec.target) {
            traffic_policy::tell_rivals(old, draft);
        }
        traffic_policy::tell_rivals(self, draft);
        let versions = old.into_iter().chain([self]);
        let spares = versions.flat_map(traffic_policy::failover).collect();
        traffic_policy::tell_backends(spares, draft);
    }

    fn leave(&self, draft: &mut Draft) {
        traffic_policy::tell_rivals(self, draft);
        let spares = traffic_policy::failover(self).collect();
        traffic_policy::tell_backends(spares, draft);
    }
}

fn number_endpoint(draft: &mut Draft, endpoint: &Endpoint) {
    let key = endpoint.key();
    let service = endpoint.service_key();
    let wanted = draft
        .next
        .services
        .get(&service)
        .filter(|_| endpoint.spec.hostname.is_none())
        .map(|it| it.spec.ports.iter().map(|port| port.name.clone()).collect())
        .unwrap_or_default();
    number_ports(draft, &wanted, |name| Subject::Endpoint(key.clone(), name));
}

/// Gives numbers to the ports `wanted` of one owner, and takes those of its other ports back.
fn number_ports(draft: &mut Draft, wanted: &BTreeSet<String>, subject: impl Fn(String) -> Subject) {
    for gone in draft.next.ids.ports_of(&subject(String::new())) {
        if !wanted.contains(&gone) {
            draft.forget(&subject(gone));
        }
    }
    for name in wanted {
        draft.assign(subject(name.clone()));
    }
}

/// Everything that refers to a service that came, changed or went.
fn tell_about_service(draft: &mut Draft, service: &ObjectKey) {
    tell_endpoints(draft, service);
    for role in [Role::Parent, Role::Backend, Role::Target, Role::Failover] {
        tell_referrers(draft, role, Kind::Service, service);
    }
}

/// The routes and policies that refer to an object that came, changed or went.
fn tell_referrers(draft: &mut Draft, role: Role, kind: Kind, key: &ObjectKey) {
    let referrers = draft.next.links().referrers(role, kind, key);
    let referrers: Vec<Node> = referrers.cloned().collect();
    tell_all(draft, &referrers);
}

fn tell_all(draft: &mut Draft, referrers: &[Node]) {
    for it in referrers {
        match it.kind {
            Kind::HttpRoute => tell_route::<HttpRoute>(draft, &it.key),
            Kind::GrpcRoute => tell_route::<GrpcRoute>(draft, &it.key),
            Kind::TcpRoute => tell_route::<TcpRoute>(draft, &it.key),
            Kind::TlsRoute => tell_route::<TlsRoute>(draft, &it.key),
            Kind::TrafficPolicy => {
                if let Some(policy) = draft.next.traffic_policies.get(&it.key) {
                    let conditions = traffic_policy::conditions(policy, &draft.next);
                    draft.set_conditions::<TrafficPolicy>(&it.key, conditions);
                }
            }
            Kind::AuthorizationPolicy => {
                if let Some(policy) = draft.next.policies.get(&it.key) {
                    let resolved = policy_refs(policy, &draft.next);
                    draft.set_condition::<AuthorizationPolicy>(&it.key, resolved);
                }
            }
            Kind::Service | Kind::Endpoint | Kind::Workload | Kind::ReferenceGrant => {}
        }
    }
}

fn tell_route<R: Route>(draft: &mut Draft, key: &ObjectKey) {
    let Some(route) = R::all(&draft.next).get(key) else {
        return;
    };
    let judged = route::judge(&**route, &draft.next);
    let mut status = route.status().clone();
    route::tell(&mut status, judged);
    if status != *route.status() {
        let mut route = R::clone(route);
        *route.status_mut() = status;
        draft.write(route);
    }
}

/// The endpoints of a service that came, changed or went.
fn tell_endpoints(draft: &mut Draft, service: &ObjectKey) {
    let endpoints: Vec<_> = draft.next.endpoints_of(service).cloned().collect();
    for endpoint in endpoints {
        number_endpoint(draft, &endpoint);
        let resolved = endpoint_refs(&endpoint, &draft.next);
        draft.set_condition::<Endpoint>(&endpoint.key(), resolved);
    }
}

fn endpoint_refs(endpoint: &Endpoint, snapshot: &Snapshot) -> Condition {
    let key = endpoint.service_key();
    let Some(service) = snapshot.services.get(&key) else {
        let message = format!("there is no Service {key}");
        return condition(endpoint, RESOLVED_REFS, Err(("ServiceNotFound", &message)));
    };
    let is_known = |name: &str| service.spec.ports.iter().any(|port| port.name == name);
    match endpoint.spec.ports.keys().find(|name| !is_known(name)) {
        Some(name) => {
            let message = format!("Service {key} has no port {name}");
            condition(endpoint, RESOLVED_REFS, Err(("PortNotFound", &message)))
        }
        None => condition(endpoint, RESOLVED_REFS, Ok(RESOLVED_REFS)),
    }
}

fn policy_effect(policy: &AuthorizationPolicy) -> Condition {
    if policy.spec.action == Action::Deny && policy.spec.rules.is_empty() {
        let message = "a Deny without rules refuses nobody";
        return condition(policy, ACCEPTED, Err(("NoEffect", message)));
    }
    condition(policy, ACCEPTED, Ok(ACCEPTED))
}

fn policy_refs(policy: &AuthorizationPolicy, snapshot: &Snapshot) -> Condition {
    let target = &policy.spec.target;
    let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
    let service = snapshot.services.get(&key);
    let exists = match target.kind {
        Kind::Service => service.is_some(),
        Kind::Workload => snapshot.workloads.contains_key(&key),
        _ => false,
    };
    if !exists {
        let message = format!("there is no {} {key}", target.kind);
        return condition(policy, RESOLVED_REFS, Err(("TargetNotFound", &message)));
    }
    // Nobody knows on which ports a workload listens.
    let service = service.filter(|_| target.kind == Kind::Service);
    let Some((field, port)) = service.and_then(|it| missing_port(policy, it)) else {
        return condition(policy, RESOLVED_REFS, Ok(RESOLVED_REFS));
    };
    let message = format!("{field}: Service {key} has no port {port}");
    condition(policy, RESOLVED_REFS, Err(("PortNotFound", &message)))
}

/// The first port that the rules of a policy name and the service does not have, with its field.
fn missing_port(policy: &AuthorizationPolicy, service: &Service) -> Option<(String, u16)> {
    let is_missing = |port: &u16| service.spec.ports.iter().all(|it| it.port != *port);
    let rules = policy.spec.rules.iter().enumerate();
    let mut items = rules.flat_map(|(rule, it)| {
        let items = it.to.iter().enumerate();
        items.map(move |(index, to)| (format!("spec.rules[{rule}].to[{index}]"), to))
    });
    items.find_map(|(field, to)| {
        let index = to.ports.iter().position(is_missing)?;
        Some((format!("{field}.ports[{index}]"), *to.ports.get(index)?))
    })
}

/// A condition of `object` as it is now: true with a reason, or false with a reason and a sentence.
fn condition<R: Resource>(
    object: &R,
    kind: &str,
    verdict: Result<&str, (&str, &str)>,
) -> Condition {
    let (status, reason, message) = match verdict {
        Ok(reason) => (ConditionStatus::True, reason, ""),
        Err((reason, message)) => (ConditionStatus::False, reason, message),
    };
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: object.metadata().generation,
    }
}

/// The condition of what is in force, and its reason.
const ACCEPTED: &str = "Accepted";
/// The condition of what refers to what exists, and its reason.
const RESOLVED_REFS: &str = "ResolvedRefs";

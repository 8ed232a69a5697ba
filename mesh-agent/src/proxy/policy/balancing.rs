//! How the endpoints of a service are balanced, as its policy says; and which of them a route wants.

use std::sync::Arc;

use crate::state::endpoint::Locality;
use crate::state::object::{Kind, ObjectKey};
use crate::state::service;
use crate::state::traffic_policy::TrafficPolicy;
use crate::state::traffic_policy::balancing::{
    Algorithm, LoadBalancing, LocalityLevel, LocalityPreference, Subset,
};
use crate::traffic::balance::key::Key;
use crate::traffic::balance::locality::{self, DISTANCES};
use crate::traffic::balance::pool::Rules;
use crate::traffic::balance::slow_start::SlowStart;
use crate::traffic::route::split::Stranger;
use crate::traffic::session::Session;

/// Percent of healthy endpoints below which health is ignored, where endpoints are checked and nothing else is said: as
/// Envoy has it.
const PANIC_PERCENT: u32 = 50;

/// Percent of a place that must be well, where nothing else is said. Without preference there is one place, and it takes
/// everything.
const MIN_WELL_PERCENT: u32 = 71;

/// Endpoints that a route or service wants.
pub(crate) type Subsets = Arc<Vec<Subset>>;

/// What a policy says of balancing.
#[derive(Debug)]
pub(crate) struct Balancing {
    /// What is hashed.
    pub(crate) key: Option<Key>,
    /// How sessions are kept.
    pub(crate) session: Option<Arc<Session>>,
    /// How a new endpoint begins.
    pub(crate) slow_start: Option<SlowStart>,
    /// Services that take over.
    pub(crate) failover: Vec<Failover>,
    /// Which endpoints take part.
    pub(crate) subsets: Option<Subsets>,
    /// Whether somebody who is not well is better than nobody.
    pub(crate) has_last_resort: bool,
    algorithm: Option<Algorithm>,
    panic_percent: u32,
    locality: Option<LocalityPreference>,
}

/// A service that takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failover {
    /// Which.
    pub(crate) service: ObjectKey,
    /// Its port; absent: the number that was dialled.
    pub(crate) port: Option<u16>,
    /// Who must be permitted to send there, where it is in another namespace.
    pub(crate) stranger: Option<Stranger>,
}

impl Balancing {
    /// Reads the policy of a service; none if it says nothing of this.
    pub(super) fn of_service(object: &TrafficPolicy) -> Option<Arc<Self>> {
        let spec = &object.spec;
        if spec.target.kind != Kind::Service {
            return None;
        }
        let is_watched = spec.health_check.is_some() || spec.outlier_detection.is_some();
        let none = LoadBalancing::default();
        let wanted = match &spec.load_balancing {
            Some(wanted) => wanted,
            None if is_watched => &none,
            None => return None,
        };
        let namespace = &object.metadata.namespace;
        let failover = wanted.failover.iter().map(|to| {
            let service = ObjectKey::new(to.namespace.as_ref().unwrap_or(namespace), &to.service);
            let is_foreign = service.namespace != *namespace;
            Failover {
                service,
                port: to.port,
                stranger: is_foreign.then(|| Stranger {
                    kind: Kind::TrafficPolicy,
                    namespace: namespace.clone(),
                }),
            }
        });
        let session = wanted.session_persistence.as_ref();
        Some(Arc::new(Self {
            key: wanted.hash_on.as_ref().and_then(Key::new),
            session: session
                .and_then(|session| Session::new(session, &spec.target.name))
                .map(Arc::new),
            slow_start: wanted
                .slow_start
                .map(|slow| SlowStart::new(slow.window.get(), slow.min_weight_percent)),
            failover: failover.collect(),
            subsets: subsets(wanted),
            has_last_resort: wanted.panic_threshold != Some(0),
            algorithm: wanted.algorithm,
            panic_percent: wanted.panic_threshold.unwrap_or(if is_watched {
                PANIC_PERCENT
            } else {
                0
            }),
            locality: wanted.locality.clone(),
        }))
    }

    /// How far away an endpoint is for a caller of this node.
    pub(crate) fn distance(&self, here: &Locality, there: &Locality, is_on_node: bool) -> usize {
        let Some(preference) = &self.locality else {
            return 0;
        };
        let is_it = |level: &LocalityLevel| {
            (*level == LocalityLevel::Node && is_on_node) || locality::is_same(*level, here, there)
        };
        let levels = &preference.prefer;
        let distance = levels.iter().position(is_it).unwrap_or(levels.len());
        distance.min(DISTANCES - 1)
    }

    /// What a distance is called; none if distances do not matter.
    pub(crate) fn place(&self, distance: usize) -> Option<&'static str> {
        let preference = self.locality.as_ref()?;
        Some(match preference.prefer.get(distance) {
            Some(LocalityLevel::Node) => "node",
            Some(LocalityLevel::Zone) => "zone",
            Some(LocalityLevel::Region) => "region",
            None => "other",
        })
    }
}

/// The subsets that the policy of a route wants; `base` are those of the level above. `old` are those of the last view:
/// equal ones stay the same, with what was laid out for them.
pub(super) fn of_route(
    object: &TrafficPolicy,
    base: Option<&Subsets>,
    old: Option<&Subsets>,
) -> Option<Subsets> {
    if object.spec.target.kind == Kind::Service {
        return None;
    }
    let own = object.spec.load_balancing.as_ref().and_then(subsets);
    let own = own.map(|own| old.filter(|old| **old == own).map_or(own, Arc::clone));
    own.or_else(|| base.map(Arc::clone))
}

fn subsets(wanted: &LoadBalancing) -> Option<Subsets> {
    (!wanted.subsets.is_empty()).then(|| Arc::new(wanted.subsets.clone()))
}

/// By what rules endpoints are chosen: as the policy says, else as the service does.
pub(crate) fn rules(policy: Option<&Balancing>, service: service::Balancing) -> Rules {
    let own = match service {
        service::Balancing::RoundRobin => Algorithm::RoundRobin,
        service::Balancing::Random => Algorithm::Random,
        service::Balancing::LeastRequest => Algorithm::LeastRequest,
    };
    let locality = policy.and_then(|policy| policy.locality.as_ref());
    Rules {
        algorithm: policy.and_then(|policy| policy.algorithm).unwrap_or(own),
        panic_percent: policy.map_or(0, |policy| policy.panic_percent),
        min_well_percent: locality.map_or(MIN_WELL_PERCENT, |it| it.min_healthy_percent),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn balancing(spec: Value) -> Option<Arc<Balancing>> {
        Balancing::of_service(&object("Service", spec))
    }

    fn object(kind: &str, mut spec: Value) -> TrafficPolicy {
        spec["target"] = json!({"kind": kind, "name": "web"});
        let object = json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn health_is_ignored_below_a_half_where_somebody_looks() {
        let percent = |spec| balancing(spec).map(|it| it.panic_percent);
        assert_eq!(percent(json!({})), None);
        assert_eq!(percent(json!({"loadBalancing": {}})), Some(0));
        assert_eq!(percent(json!({"outlierDetection": {}})), Some(50));
        assert_eq!(percent(json!({"healthCheck": {"tcp": {}}})), Some(50));
        let never = json!({"healthCheck": {"tcp": {}}, "loadBalancing": {"panicThreshold": 0}});
        assert_eq!(percent(never.clone()), Some(0));
        assert!(!balancing(never).unwrap().has_last_resort);
    }

    #[test]
    fn a_policy_goes_before_the_service() {
        let service = service::Balancing::Random;
        assert_eq!(rules(None, service).algorithm, Algorithm::Random);
        let maglev = balancing(json!({"loadBalancing": {"algorithm": "Maglev"}}));
        assert_eq!(
            rules(maglev.as_deref(), service).algorithm,
            Algorithm::Maglev
        );
    }

    #[test]
    fn distances_follow_the_preference() {
        let place = |zone: &str, region: &str| Locality {
            region: Some(region.to_owned()),
            zone: Some(zone.to_owned()),
            node: None,
        };
        let here = place("a", "eu");
        let distances = |spec: Value| {
            let balancing = balancing(json!({"loadBalancing": spec})).unwrap();
            let distance = |there: &Locality, is_on_node| {
                let distance = balancing.distance(&here, there, is_on_node);
                balancing.place(distance)
            };
            [
                distance(&Locality::default(), true),
                distance(&place("a", "eu"), false),
                distance(&place("b", "eu"), false),
                distance(&place("a", "us"), false),
            ]
        };
        let names = ["node", "zone", "region", "other"].map(Some);
        assert_eq!(distances(json!({"locality": {}})), names);
        let zone = ["other", "zone", "other", "other"].map(Some);
        assert_eq!(distances(json!({"locality": {"prefer": ["Zone"]}})), zone);
        assert_eq!(distances(json!({})), [None; 4]);
    }

    #[test]
    fn subsets_of_a_rule_go_before_those_of_its_route_and_services_keep_theirs() {
        let wants = |version: &str| json!({"loadBalancing": {"subsets": [{"version": version}]}});
        let version = |subsets: Option<&Subsets>| {
            subsets
                .and_then(|it| it[0].version.clone())
                .unwrap_or_default()
        };
        let route = of_route(&object("HTTPRoute", wants("1")), None, None);
        assert_eq!(version(route.as_ref()), "1");
        let silent = of_route(&object("HTTPRoute", json!({})), route.as_ref(), None);
        assert_eq!(version(silent.as_ref()), "1");
        let rule = of_route(&object("HTTPRoute", wants("2")), route.as_ref(), None);
        assert_eq!(version(rule.as_ref()), "2");
        let again = of_route(
            &object("HTTPRoute", wants("2")),
            route.as_ref(),
            rule.as_ref(),
        );
        assert!(Arc::ptr_eq(&again.unwrap(), &rule.unwrap()));
        assert_eq!(of_route(&object("Service", wants("3")), None, None), None);
        let service = balancing(wants("3")).unwrap();
        assert_eq!(version(service.subsets.as_ref()), "3");
    }
}

//! What Consul clients read, from a snapshot. Pure.
#![expect(
    clippy::unnecessary_wraps,
    reason = "the views of a table have one signature"
)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Facts;
use super::failure::Failure;
use super::instance::{Instance, NODES, node_fields, node_of, serf_health};
use super::kv;
use super::name;
use super::question::{DATACENTER, Question};
use super::scope::Scope;
use crate::state::Snapshot;
use crate::state::object::ObjectKey;

/// One request to read.
pub(super) struct Look<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) facts: &'a Facts,
    pub(super) question: &'a Question,
    /// What stands in the path.
    pub(super) argument: &'a str,
    /// Who asks, where that is a workload.
    pub(super) scope: Option<&'a Scope>,
}

/// What a request reads.
pub(super) type View = fn(&Look<'_>) -> Result<Value, Failure>;

impl Look<'_> {
    /// All instances of the namespace, those that stand for nodes among them. An endpoint with a name is none: it has no
    /// address, and those of its addresses are instances.
    fn all(&self) -> impl Iterator<Item = Instance> {
        let namespace = &self.question.namespace;
        self.snapshot
            .endpoints
            .range(ObjectKey::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == *namespace)
            .filter(|(_, endpoint)| endpoint.spec.hostname.is_none())
            .map(move |(_, endpoint)| Instance::of(self.snapshot, self.facts, endpoint))
    }

    fn instances(&self) -> impl Iterator<Item = Instance> {
        self.all().filter(|it| !it.is_node())
    }

    /// The instances of the service in the path that have the tags that are asked for, near ones first.
    fn of_service(&self) -> Vec<Instance> {
        let key = ObjectKey::new(&self.question.namespace, name::of(self.argument));
        let has_tags = |it: &Instance| {
            let tags = &it.endpoint.spec.tags;
            let mut wanted = self.question.texts("tag").filter(|it| !it.is_empty());
            wanted.all(|tag| tags.iter().any(|it| it.eq_ignore_ascii_case(tag)))
        };
        let endpoints = self.snapshot.endpoints_of(&key);
        let mut found: Vec<Instance> = endpoints
            .filter(|it| it.spec.hostname.is_none())
            .map(|it| Instance::of(self.snapshot, self.facts, it))
            .filter(|it| !it.is_node() && has_tags(it))
            .collect();
        if let Some(near) = self.question.text("near") {
            let node = if near == "_agent" {
                self.facts.node.as_str()
            } else {
                near
            };
            found.sort_by_key(|it| self.distance(it, node));
        }
        found
    }

    /// How far an instance is from a node: the same, the same zone, the same region, elsewhere.
    fn distance(&self, instance: &Instance, node: &str) -> u8 {
        if instance.node == node {
            return 0;
        }
        let here = if node == self.facts.node {
            self.facts.locality.clone()
        } else {
            let there = self.all().find(|it| it.node == node);
            there.and_then(|it| it.endpoint.spec.locality.clone())
        };
        let there = instance.endpoint.spec.locality.as_ref();
        let Some((here, there)) = here.as_ref().zip(there) else {
            return 3;
        };
        let is_region = here.region.is_some() && here.region == there.region;
        match (
            is_region,
            is_region && here.zone.is_some() && here.zone == there.zone,
        ) {
            (_, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
        }
    }

    /// The checks of each node that somebody has registered one for.
    fn checks_of_nodes(&self) -> BTreeMap<String, Vec<Value>> {
        let key = ObjectKey::new(&self.question.namespace, NODES);
        let endpoints = self.snapshot.endpoints_of(&key);
        let nodes = endpoints.map(|it| Instance::of(self.snapshot, self.facts, it));
        let nodes = nodes.filter(Instance::is_node);
        let mut checks: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for instance in nodes {
            let own = checks.entry(instance.node.clone()).or_default();
            own.extend(instance.checks());
        }
        checks
    }

    /// The nodes that are known, with an instance of each but this one.
    fn nodes(&self) -> BTreeMap<String, Value> {
        let facts = self.facts;
        let own = node_fields(&facts.node, &facts.address_text());
        let mut nodes = BTreeMap::from([(facts.node.clone(), own)]);
        for instance in self.all() {
            if !nodes.contains_key(&instance.node) {
                nodes.insert(instance.node.clone(), instance.node_fields());
            }
        }
        nodes
    }

    /// All checks of a node.
    fn checks_of(&self, node: &str) -> Vec<Value> {
        let mut checks = vec![serf_health(node)];
        let instances = self.all().filter(|it| it.node == node);
        checks.extend(instances.flat_map(|it| it.checks()));
        checks
    }
}

fn statuses_of(checks: &[Value]) -> impl Iterator<Item = &str> {
    checks.iter().filter_map(|it| it.get("Status")?.as_str())
}

/// `GET /v1/agent/services`: those of this node.
pub(super) fn agent_services(look: &Look<'_>) -> Result<Value, Failure> {
    let mine = look.instances().filter(|it| it.node == look.facts.node);
    let services = mine.map(|it| (it.id().to_owned(), it.agent_service()));
    Ok(Value::Object(services.collect()))
}

/// `GET /v1/agent/service/ID`.
pub(super) fn agent_service(look: &Look<'_>) -> Result<Value, Failure> {
    let (id, node) = (look.argument, &look.facts.node);
    let mut names = [name::of(id), name::apart(id, node)].into_iter();
    let endpoint = names.find_map(|name| {
        let key = ObjectKey::new(&look.question.namespace, name);
        let endpoint = look.snapshot.endpoints.get(&key);
        endpoint.filter(|it| node_of(look.facts, it) == node)
    });
    let unknown = || Failure::absent(format!("unknown service ID: {}", look.argument));
    let instance = Instance::of(look.snapshot, look.facts, endpoint.ok_or_else(unknown)?);
    Ok(instance.agent_service())
}

/// `GET /v1/agent/checks`.
pub(super) fn agent_checks(look: &Look<'_>) -> Result<Value, Failure> {
    let mine = look.all().filter(|it| it.node == look.facts.node);
    let checks = mine.flat_map(|it| it.checks());
    let named = checks.filter_map(|it| Some((it.get("CheckID")?.as_str()?.to_owned(), it)));
    Ok(Value::Object(named.collect()))
}

/// `GET /v1/agent/self`.
pub(super) fn agent_self(look: &Look<'_>) -> Result<Value, Failure> {
    let facts = look.facts;
    Ok(json!({
        "Config": {
            "Datacenter": DATACENTER,
            "PrimaryDatacenter": DATACENTER,
            "NodeName": facts.node,
            "NodeID": "",
            "Server": true,
            "Revision": "",
            "Version": env!("CARGO_PKG_VERSION"),
        },
        "Member": member(facts),
        "Meta": {},
        "Stats": {"agent": {"services": look.instances().count().to_string()}},
    }))
}

/// `GET /v1/agent/members`: this node.
pub(super) fn agent_members(look: &Look<'_>) -> Result<Value, Failure> {
    Ok(json!([member(look.facts)]))
}

fn member(facts: &Facts) -> Value {
    json!({
        "Name": facts.node,
        "Addr": facts.address_text(),
        "Port": 8301,
        "Tags": {"dc": DATACENTER, "role": "consul"},
        "Status": 1,
        "ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2,
        "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
    })
}

/// `GET /v1/status/leader`.
pub(super) fn leader(look: &Look<'_>) -> Result<Value, Failure> {
    Ok(json!(format!("{}:8300", look.facts.address_text())))
}

/// `GET /v1/status/peers`.
pub(super) fn peers(look: &Look<'_>) -> Result<Value, Failure> {
    Ok(json!([format!("{}:8300", look.facts.address_text())]))
}

/// `GET /v1/catalog/datacenters`.
pub(super) fn datacenters(_look: &Look<'_>) -> Result<Value, Failure> {
    Ok(json!([DATACENTER]))
}

/// `GET /v1/catalog/services`: names, each with all tags of its instances. A filter chooses from the instances, as
/// `catalog/service` has them.
pub(super) fn services(look: &Look<'_>) -> Result<Value, Failure> {
    let namespace = &look.question.namespace;
    let mut services: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let known = look
        .snapshot
        .services
        .range(ObjectKey::new(namespace, "")..);
    let filter = look.question.filter.as_ref();
    let known = known.take_while(|(key, _)| key.namespace == *namespace);
    for (_, service) in known.filter(|_| filter.is_none()) {
        // What is there for keys or nodes is no service to anybody.
        if service.spec.portless && matches!(service.metadata.name.as_str(), kv::HOLDER | NODES) {
            continue;
        }
        let given = name::given(&service.metadata).to_owned();
        let tags = services.entry(given).or_default();
        tags.extend(service.spec.tags.iter().cloned());
    }
    let is_wanted =
        |it: &Instance| filter.is_none_or(|filter| filter.matches(&it.catalog_service()));
    for instance in look.instances().filter(is_wanted) {
        let tags = services.entry(instance.service.clone()).or_default();
        tags.extend(instance.endpoint.spec.tags.iter().cloned());
    }
    Ok(json!(services))
}

/// `GET /v1/catalog/service/NAME`.
pub(super) fn service(look: &Look<'_>) -> Result<Value, Failure> {
    let instances = look.of_service();
    Ok(instances.iter().map(Instance::catalog_service).collect())
}

/// `GET /v1/catalog/nodes`.
pub(super) fn nodes(look: &Look<'_>) -> Result<Value, Failure> {
    Ok(look.nodes().into_values().collect())
}

/// `GET /v1/catalog/node/NODE`: the node, and its services by id.
pub(super) fn node(look: &Look<'_>) -> Result<Value, Failure> {
    let Some(node) = look.nodes().remove(look.argument) else {
        return Ok(Value::Null);
    };
    let services = look.instances().filter(|it| it.node == look.argument);
    let services = services.map(|it| (it.id().to_owned(), it.agent_service()));
    let services: Map<String, Value> = services.collect();
    Ok(json!({"Node": node, "Services": services}))
}

/// `GET /v1/catalog/node-services/NODE`: the same, with a list.
pub(super) fn node_services(look: &Look<'_>) -> Result<Value, Failure> {
    let Some(node) = look.nodes().remove(look.argument) else {
        return Ok(json!({"Node": null, "Services": []}));
    };
    let services = look.instances().filter(|it| it.node == look.argument);
    let services: Vec<Value> = services.map(|it| it.agent_service()).collect();
    Ok(json!({"Node": node, "Services": services}))
}

/// `GET /v1/health/service/NAME`.
pub(super) fn health_service(look: &Look<'_>) -> Result<Value, Failure> {
    let of_nodes = look.checks_of_nodes();
    let is_passing_only = look.question.flag("passing");
    let entries = look.of_service().into_iter().filter_map(|instance| {
        let mut of_node = vec![serf_health(&instance.node)];
        of_node.extend(of_nodes.get(&instance.node).cloned().unwrap_or_default());
        let own = instance.checks();
        let mut statuses = statuses_of(&of_node).chain(statuses_of(&own));
        let is_wanted = !is_passing_only || statuses.all(|it| it == "passing");
        is_wanted.then(|| instance.health_entry(&of_node))
    });
    Ok(entries.collect())
}

/// `GET /v1/health/checks/NAME`.
pub(super) fn health_checks(look: &Look<'_>) -> Result<Value, Failure> {
    let instances = look.of_service();
    Ok(instances.iter().flat_map(Instance::checks).collect())
}

/// `GET /v1/health/node/NODE`.
pub(super) fn health_node(look: &Look<'_>) -> Result<Value, Failure> {
    if !look.nodes().contains_key(look.argument) {
        return Ok(json!([]));
    }
    Ok(look.checks_of(look.argument).into())
}

/// `GET /v1/health/state/STATE`.
pub(super) fn health_state(look: &Look<'_>) -> Result<Value, Failure> {
    let wanted = look.argument;
    if !matches!(wanted, "any" | "passing" | "warning" | "critical") {
        let text = format!("the state must be any, passing, warning or critical, not {wanted:?}");
        return Err(Failure::bad(text));
    }
    let nodes = look.nodes();
    let mut checks: Vec<Value> = nodes.keys().map(|node| serf_health(node)).collect();
    checks.extend(look.all().flat_map(|it| it.checks()));
    checks.retain(|it| wanted == "any" || it.get("Status").is_some_and(|it| it == wanted));
    Ok(checks.into())
}

/// The worst status of an instance, for `agent/health/service`.
pub(super) fn worst(checks: &[Value]) -> &'static str {
    let has = |status: &str| statuses_of(checks).any(|it| it == status);
    match () {
        () if has("critical") => "critical",
        () if has("warning") => "warning",
        () => "passing",
    }
}

/// `GET /v1/agent/health/service/name/NAME`: the instances of this node, with the status of each.
pub(super) fn agent_health_by_name(look: &Look<'_>) -> Result<Value, Failure> {
    let instances = look.of_service().into_iter();
    let mine: Vec<Value> = instances
        .filter(|it| it.node == look.facts.node)
        .map(|it| agent_health(&it))
        .collect();
    if mine.is_empty() {
        let text = format!("ServiceName {} not found", look.argument);
        return Err(Failure::absent(text));
    }
    Ok(mine.into())
}

/// `GET /v1/agent/health/service/id/ID`.
pub(super) fn agent_health_by_id(look: &Look<'_>) -> Result<Value, Failure> {
    let mut instances = look.instances();
    let mine = instances.find(|it| it.id() == look.argument && it.node == look.facts.node);
    let unknown = || Failure::absent(format!("ServiceId {} not found", look.argument));
    Ok(agent_health(&mine.ok_or_else(unknown)?))
}

fn agent_health(instance: &Instance) -> Value {
    let checks = instance.checks();
    json!({
        "AggregatedStatus": worst(&checks),
        "Service": instance.agent_service(),
        "Checks": checks,
    })
}

/// Lists what is not there: proxies, sessions.
pub(super) fn nothing(_look: &Look<'_>) -> Result<Value, Failure> {
    Ok(json!([]))
}

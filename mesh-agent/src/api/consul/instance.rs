//! An endpoint as Consul clients see it: a service instance on a node, with its checks. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::name;
use super::question::DATACENTER;
use super::{Facts, index_of};
use crate::state::Snapshot;
use crate::state::check::{Check, OBSERVED};
use crate::state::endpoint::{Endpoint, HealthStatus, Lifecycle};
use crate::state::object::ObjectKey;
use crate::state::source::Source;

/// An endpoint, as a service instance.
#[derive(Clone)]
pub(super) struct Instance {
    pub(super) endpoint: Arc<Endpoint>,
    /// The name of its service as it was given.
    pub(super) service: String,
    /// The port that it is registered at, or 0.
    pub(super) port: u16,
    /// The node that it runs on.
    pub(super) node: String,
    /// The address of that.
    pub(super) node_address: String,
    /// What is dialled to reach the service through the mesh.
    virtual_address: Option<(IpAddr, u16)>,
}

/// The service whose endpoints stand for nodes: they carry the checks of nodes.
pub(super) const NODES: &str = "consul";

impl Instance {
    /// An endpoint of a namespace.
    pub(super) fn of(snapshot: &Snapshot, facts: &Facts, endpoint: &Arc<Endpoint>) -> Self {
        let spec = &endpoint.spec;
        let key = ObjectKey::new(&endpoint.metadata.namespace, &spec.service);
        let service = snapshot.services.get(&key);
        let given = service.map_or(spec.service.as_str(), |it| name::given(&it.metadata));
        let first = service.and_then(|it| it.spec.ports.first());
        let node = node_of(facts, endpoint).to_owned();
        let node_address = match endpoint.metadata.annotations.get(name::NODE_ADDRESS) {
            Some(address) => address.clone(),
            None if node == facts.node => facts.address_text(),
            None => spec.address.to_string(),
        };
        let port = spec.port.or_else(|| first.map(|port| spec.port_of(port)));
        let dialled = service.and_then(|it| {
            let mut ports = it.spec.ports.iter();
            let own = ports.find(|it| Some(it.port) == port).or(first)?;
            Some((*it.status.addresses.first()?, own.port))
        });
        Self {
            service: given.to_owned(),
            port: port.unwrap_or(0),
            virtual_address: dialled,
            node,
            node_address,
            endpoint: Arc::clone(endpoint),
        }
    }

    /// Its id.
    pub(super) fn id(&self) -> &str {
        name::given(&self.endpoint.metadata)
    }

    /// Its address as it was given.
    pub(super) fn address(&self) -> String {
        let given = self.endpoint.metadata.annotations.get(name::GIVEN_ADDRESS);
        given.map_or_else(|| self.endpoint.spec.address.to_string(), Clone::clone)
    }

    /// Whether it stands for its node.
    pub(super) fn is_node(&self) -> bool {
        self.endpoint.spec.service == NODES && self.id().starts_with(NODE_PREFIX)
    }

    /// Its checks: those of its registration, and what else keeps traffic from it.
    pub(super) fn checks(&self) -> Vec<Value> {
        let spec = &self.endpoint.spec;
        let statuses = &self.endpoint.status.checks;
        let mut checks: Vec<Value> = spec
            .checks
            .iter()
            .map(|check| {
                let known = statuses.iter().find(|it| it.id == check.id);
                let status = known.map_or(check.initial_status, |it| it.status);
                let output = known.map_or("", |it| it.output.as_str());
                self.check((&check.id, check.title()), status, output, Some(check))
            })
            .collect();
        if let Some(seen) = statuses.iter().find(|it| it.id == OBSERVED) {
            let id = format!("{OBSERVED}:{}", self.id());
            let title = "Checks of policies and answers";
            checks.push(self.check((&id, title), seen.status, &seen.output, None));
        }
        let critical = |checks: &mut Vec<Value>, id: String, title: &str, output: &str| {
            checks.push(self.check((&id, title), HealthStatus::Critical, output, None));
        };
        if let Some(maintenance) = &spec.maintenance {
            let id = if self.is_node() {
                "_node_maintenance".to_owned()
            } else {
                format!("_service_maintenance:{}", self.id())
            };
            let title = if self.is_node() {
                "Node Maintenance Mode"
            } else {
                "Service Maintenance Mode"
            };
            critical(&mut checks, id, title, &maintenance.reason);
        }
        let word = match self.endpoint.lifecycle() {
            Lifecycle::Ready => return checks,
            Lifecycle::Starting => "starting",
            Lifecycle::Draining => "draining",
        };
        let id = format!("mesh:lifecycle:{}", self.id());
        critical(&mut checks, id, "Life cycle", word);
        checks
    }

    fn check(
        &self,
        (id, title): (&str, &str),
        status: HealthStatus,
        output: &str,
        check: Option<&Check>,
    ) -> Value {
        let is_node = self.is_node();
        let of_service = |text: &str| {
            if is_node {
                String::new()
            } else {
                text.to_owned()
            }
        };
        json!({
            "Node": self.node,
            "CheckID": id,
            "Name": title,
            "Status": word(status),
            "Notes": check.and_then(|it| it.notes.as_deref()).unwrap_or_default(),
            "Output": output,
            "ServiceID": of_service(self.id()),
            "ServiceName": of_service(&self.service),
            "ServiceTags": if is_node { json!([]) } else { json!(self.endpoint.spec.tags) },
            "Type": check.map_or("", Check::kind),
            "Interval": check.map(|it| it.interval.to_string()).unwrap_or_default(),
            "Timeout": check.map(|it| it.timeout.to_string()).unwrap_or_default(),
            "ExposedPort": 0,
            "Definition": {},
            "CreateIndex": self.index(),
            "ModifyIndex": self.index(),
        })
    }

    /// The write that made this version.
    pub(super) fn index(&self) -> u64 {
        index_of(&self.endpoint.metadata)
    }

    /// As `agent/service` has it.
    pub(super) fn agent_service(&self) -> Value {
        let mut service = self.fields("");
        service.insert("ID".to_owned(), json!(self.id()));
        service.insert("Service".to_owned(), json!(self.service));
        service.insert("Datacenter".to_owned(), json!(DATACENTER));
        Value::Object(service)
    }

    /// As `catalog/service` has it.
    pub(super) fn catalog_service(&self) -> Value {
        let mut service = self.fields("Service");
        let node = self.node_fields();
        service.extend(node.as_object().cloned().unwrap_or_default());
        service.insert("ServiceID".to_owned(), json!(self.id()));
        service.insert("ServiceName".to_owned(), json!(self.service));
        service.insert("CreateIndex".to_owned(), json!(self.index()));
        service.insert("ModifyIndex".to_owned(), json!(self.index()));
        Value::Object(service)
    }

    /// As `health/service` has it; `of_node` are the checks of its node.
    pub(super) fn health_entry(&self, of_node: &[Value]) -> Value {
        let mut checks = of_node.to_vec();
        checks.extend(self.checks());
        json!({
            "Node": self.node_fields(),
            "Service": self.agent_service(),
            "Checks": checks,
        })
    }

    /// The node as catalogs list it.
    pub(super) fn node_fields(&self) -> Value {
        node_fields(&self.node, &self.node_address)
    }

    /// What all views have, each name with a prefix.
    fn fields(&self, prefix: &str) -> Map<String, Value> {
        let spec = &self.endpoint.spec;
        let passing = spec.weights.map_or(spec.weight, |it| it.passing);
        let warning = spec.weights.and_then(|it| it.warning).unwrap_or(passing);
        let tagged = self
            .endpoint
            .metadata
            .annotations
            .get(name::TAGGED_ADDRESSES);
        let tagged = tagged.and_then(|it| serde_json::from_str(it).ok());
        let mut tagged: Map<String, Value> = tagged.unwrap_or_default();
        tagged.extend(self.virtual_address.map(|(address, port)| {
            let address = json!({"Address": address, "Port": port});
            ("virtual".to_owned(), address)
        }));
        let fields = [
            ("Tags", json!(spec.tags)),
            ("Meta", json!(spec.meta)),
            ("Port", json!(self.port)),
            ("Address", json!(self.address())),
            ("Weights", json!({"Passing": passing, "Warning": warning})),
            ("TaggedAddresses", Value::Object(tagged)),
            ("EnableTagOverride", json!(false)),
        ];
        let mut named: Map<String, Value> = fields
            .into_iter()
            .map(|(name, value)| (format!("{prefix}{name}"), value))
            .collect();
        if prefix.is_empty() {
            named.insert("CreateIndex".to_owned(), json!(self.index()));
            named.insert("ModifyIndex".to_owned(), json!(self.index()));
        }
        named
    }
}

/// Begins the ids of endpoints that stand for nodes.
const NODE_PREFIX: &str = "node:";

/// The id of the endpoint that stands for a node.
pub(super) fn id_of_node(node: &str) -> String {
    format!("{NODE_PREFIX}{node}")
}

/// The node that an endpoint runs on: the one that it names, else the one that has registered it.
pub(super) fn node_of<'a>(facts: &'a Facts, endpoint: &'a Endpoint) -> &'a str {
    let locality = endpoint.spec.locality.as_ref();
    let named = locality.and_then(|it| it.node.as_deref());
    let metadata = &endpoint.metadata;
    let is_shared = metadata.source == Source::Etcd && !metadata.origin.is_empty();
    let registered = is_shared.then_some(metadata.origin.as_str());
    named.or(registered).unwrap_or(&facts.node)
}

/// A node as catalogs list it.
pub(super) fn node_fields(node: &str, address: &str) -> Value {
    json!({
        "ID": "",
        "Node": node,
        "Address": address,
        "Datacenter": DATACENTER,
        "TaggedAddresses": {"lan": address, "wan": address},
        "Meta": {},
        "NodeMeta": {},
        "CreateIndex": 1,
        "ModifyIndex": 1,
    })
}

/// That a node is there.
pub(super) fn serf_health(node: &str) -> Value {
    json!({
        "Node": node,
        "CheckID": "serfHealth",
        "Name": "Serf Health Status",
        "Status": "passing",
        "Notes": "",
        "Output": "Agent alive and reachable",
        "ServiceID": "",
        "ServiceName": "",
        "ServiceTags": [],
        "Type": "",
        "Definition": {},
        "CreateIndex": 1,
        "ModifyIndex": 1,
    })
}

/// The word for a status.
pub(super) const fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Passing => "passing",
        HealthStatus::Warning => "warning",
        HealthStatus::Critical => "critical",
    }
}

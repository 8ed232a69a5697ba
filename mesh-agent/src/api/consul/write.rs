//! What Consul clients change. Each of these is several writes of the registry; they run one at a time, on a thread that
//! may block.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;

use super::definition::Origin;
use super::failure::Failure;
use super::fields::Fields;
use super::instance::{NODES, id_of_node, node_of};
use super::question::Question;
use super::scope::Scope;
use super::{Facts, definition, made, name};
use crate::api::Context;
use crate::state::check::Check;
use crate::state::endpoint::{Endpoint, EndpointSpec, EndpointStatus, Locality, Maintenance};
use crate::state::object::{API_VERSION, Kind, Metadata, ObjectKey};
use crate::state::{Change, Manifest, Refusal, Snapshot};

/// How often a change is made anew when somebody else was faster.
const TRIES: usize = 5;

/// One request to write.
pub(super) struct Writer {
    pub(super) context: Context,
    pub(super) facts: Facts,
    pub(super) question: Question,
    pub(super) scope: Option<Arc<Scope>>,
    /// What stands in the path.
    pub(super) argument: String,
}

/// What a request writes; it answers with a value, or with nothing.
pub(super) type Write = fn(&Writer, &[u8]) -> Result<Option<Value>, Failure>;

impl Writer {
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.context.store.snapshot()
    }

    fn apply(&self, change: Change) -> Result<(), Failure> {
        Ok(self.context.writer.apply_blocking(change).map(drop)?)
    }

    /// The endpoint with an id on a node, if the caller may change it.
    fn endpoint(&self, id: &str, node: &str) -> Result<Arc<Endpoint>, Failure> {
        let key = self.key_of(id, node);
        let snapshot = self.snapshot();
        let endpoint = snapshot.endpoints.get(&key);
        let endpoint = endpoint.filter(|it| self.is_of(it, node)).ok_or_else(|| {
            Failure::absent(format!(
                "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
            ))
        })?;
        self.may(endpoint)?;
        Ok(Arc::clone(endpoint))
    }

    /// The key of the endpoint with an id on a node. Ids are those of a node: where another one of a shared registry was
    /// there first, the endpoint has a name apart.
    pub(super) fn key_of(&self, id: &str, node: &str) -> ObjectKey {
        let named = |name| ObjectKey::new(&self.question.namespace, name);
        let (plain, apart) = (named(name::of(id)), named(name::apart(id, node)));
        let snapshot = self.snapshot();
        match snapshot.endpoints.get(&plain) {
            Some(endpoint) if self.is_of(endpoint, node) => plain,
            None if !snapshot.endpoints.contains_key(&apart) => plain,
            _ => apart,
        }
    }

    /// Gives an endpoint with an id its name, and its checks those of the instances that they follow.
    fn name(&self, endpoint: &mut Endpoint) {
        let node = node_of(&self.facts, endpoint).to_owned();
        let id = name::given(&endpoint.metadata).to_owned();
        let name = self.key_of(&id, &node).name;
        let metadata = &mut endpoint.metadata;
        if name != metadata.name {
            metadata.annotations.insert(name::GIVEN.to_owned(), id);
            metadata.name = name;
        }
        for check in &mut endpoint.spec.checks {
            self.resolve_alias(check, &node);
        }
    }

    /// Lets a check of an endpoint on a node follow the instance there, where another node has one of the same id.
    pub(super) fn resolve_alias(&self, check: &mut Check, node: &str) {
        let snapshot = self.snapshot();
        let followed = check.alias.as_mut().and_then(|it| it.endpoint.as_mut());
        let Some(name) = followed else {
            return;
        };
        let named = |name: &str| ObjectKey::new(&self.question.namespace, name);
        let Some(endpoint) = snapshot.endpoints.get(&named(name)) else {
            return;
        };
        let key = self.key_of(name::given(&endpoint.metadata), node);
        if snapshot.endpoints.contains_key(&key) {
            *name = key.name;
        }
    }

    /// Whether an endpoint is one that may be written for a node: where nodes share a registry, not one of another node.
    fn is_of(&self, endpoint: &Endpoint, node: &str) -> bool {
        let is_ours = self.context.writer.is_responsible(&endpoint.metadata);
        is_ours || node_of(&self.facts, endpoint) == node
    }

    pub(super) fn may(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        let scope = self.scope.as_ref();
        scope.map_or(Ok(()), |scope| scope.may_change(endpoint))
    }

    fn mark(&self, endpoint: &mut Endpoint) -> Result<(), Failure> {
        let scope = self.scope.as_ref();
        scope.map_or(Ok(()), |scope| scope.mark(endpoint))
    }

    /// Where a registration of this caller comes from.
    fn origin(&self) -> Origin<'_> {
        let own = match &self.scope {
            Some(scope) => scope.addresses.first().copied(),
            None => self.facts.address,
        };
        Origin {
            namespace: &self.question.namespace,
            address: own,
            locality: self.facts.locality.clone(),
        }
    }

    /// Puts an endpoint, and brings its service in line; `service` is the name of that as it was given.
    pub(super) fn put(&self, mut endpoint: Endpoint, service: &str) -> Result<(), Failure> {
        self.may(&endpoint)?;
        self.mark(&mut endpoint)?;
        let key = ObjectKey::new(&endpoint.metadata.namespace, &endpoint.spec.service);
        let old = self.snapshot().endpoints.get(&endpoint.key()).cloned();
        match (&old, &self.scope) {
            (Some(old), _) => self.may(old)?,
            (None, Some(scope)) => scope.may_add(&self.snapshot())?,
            (None, None) => {}
        }
        self.apply(Change::Put(Manifest::Endpoint(endpoint.into())))?;
        made::follow(&self.context, &key, service)?;
        let before = old.map(|it| ObjectKey::new(&it.metadata.namespace, &it.spec.service));
        match before.filter(|before| *before != key) {
            Some(before) => made::follow(&self.context, &before, ""),
            None => Ok(()),
        }
    }

    pub(super) fn remove(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        let key = ObjectKey::new(&endpoint.metadata.namespace, &endpoint.spec.service);
        self.apply(Change::Delete {
            kind: Kind::Endpoint,
            key: endpoint.key(),
            resource_version: None,
        })?;
        made::follow(&self.context, &key, "")
    }

    /// Changes an endpoint of a node that is there. Somebody who writes it meanwhile is not overwritten.
    pub(super) fn change(
        &self,
        id: &str,
        node: &str,
        change: impl Fn(&mut Endpoint) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for _ in 0..TRIES {
            let mut endpoint = Endpoint::clone(&*self.endpoint(id, node)?);
            change(&mut endpoint)?;
            self.mark(&mut endpoint)?;
            let put = Change::Put(Manifest::Endpoint(endpoint.into()));
            match self.context.writer.apply_blocking(put) {
                Ok(_) => return Ok(()),
                Err(Refusal::Conflict { .. }) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        let text = format!("{id:?} is written by others all the time: try again");
        Err(Failure::new(StatusCode::CONFLICT, text))
    }

    /// The id of the endpoint that stands for this node, which is made where it is not there.
    pub(super) fn own_node(&self) -> Result<String, Failure> {
        if self.scope.is_some() {
            return Err(Failure::forbidden("a workload may not speak for its node"));
        }
        let facts = &self.facts;
        let locality = facts.locality.clone();
        let address = facts.address;
        self.node(&facts.node, address, locality)
    }

    pub(super) fn node(
        &self,
        node: &str,
        address: Option<IpAddr>,
        locality: Option<Locality>,
    ) -> Result<String, Failure> {
        let id = id_of_node(node);
        let key = ObjectKey::new(&self.question.namespace, name::of(&id));
        if self.snapshot().endpoints.contains_key(&key) {
            return Ok(id);
        }
        let text = "this node has no address that others can reach: no check can be kept for it";
        let address = address.ok_or_else(|| Failure::bad(text))?;
        let mut metadata = Metadata {
            name: key.name,
            namespace: key.namespace,
            ..Metadata::default()
        };
        metadata
            .annotations
            .extend(name::annotation(&id).map(|(key, value)| (key.to_owned(), value)));
        let mut spec = EndpointSpec::new(NODES, address);
        spec.locality = locality;
        let endpoint = Endpoint {
            api_version: API_VERSION.to_owned(),
            kind: Kind::Endpoint,
            metadata,
            spec,
            status: EndpointStatus::default(),
        };
        self.put(endpoint, NODES)?;
        Ok(id)
    }
}

pub(super) fn object(body: &[u8]) -> Result<Fields, Failure> {
    let value = serde_json::from_slice(body);
    let value = value.map_err(|error| Failure::bad(format!("Request decode failed: {error}")))?;
    Fields::of("", value)
}

/// `PUT /v1/agent/service/register`.
pub(super) fn register(writer: &Writer, body: &[u8]) -> Result<Option<Value>, Failure> {
    let read = definition::service(object(body)?, "Name", &writer.origin())?;
    writer.put(kept(writer, read.endpoint, read.has_checks), &read.service)?;
    Ok(None)
}

/// A registration under the name that it has. One anew keeps what it does not speak of: maintenance, what others wrote beside it, and, unless it
/// replaces them, checks that were added one by one.
pub(super) fn kept(writer: &Writer, mut new: Endpoint, has_checks: bool) -> Endpoint {
    writer.name(&mut new);
    let snapshot = writer.snapshot();
    let Some(old) = snapshot.endpoints.get(&new.key()) else {
        return new;
    };
    new.metadata.labels.clone_from(&old.metadata.labels);
    for (key, value) in &old.metadata.annotations {
        if !key.starts_with("consul.mesh.dev/") {
            let annotations = &mut new.metadata.annotations;
            annotations
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
    }
    new.spec.maintenance.clone_from(&old.spec.maintenance);
    let is_clean = writer.question.flag("replace-existing-checks");
    let id = name::given(&new.metadata).to_owned();
    let usual = format!("service:{id}");
    for check in old.spec.checks.iter().filter(|_| !is_clean) {
        // Those of the registration before go with it, where this one brings others.
        let is_of_registration = check.id == usual || check.id.starts_with(&format!("{usual}:"));
        let is_known = new.spec.checks.iter().any(|it| it.id == check.id);
        let is_replaced = has_checks && is_of_registration;
        if !(is_known || is_replaced) {
            new.spec.checks.push(check.clone());
        }
    }
    new
}

/// `PUT /v1/agent/service/deregister/ID`.
pub(super) fn deregister(writer: &Writer, _body: &[u8]) -> Result<Option<Value>, Failure> {
    let endpoint = writer.endpoint(&writer.argument, &writer.facts.node)?;
    writer.remove(&endpoint)?;
    Ok(None)
}

/// `PUT /v1/agent/service/maintenance/ID?enable=..&reason=..`.
pub(super) fn maintain(writer: &Writer, _body: &[u8]) -> Result<Option<Value>, Failure> {
    maintain_endpoint(writer, &writer.argument)
}

/// `PUT /v1/agent/maintenance?enable=..&reason=..`: of this node.
pub(super) fn maintain_node(writer: &Writer, _body: &[u8]) -> Result<Option<Value>, Failure> {
    let id = writer.own_node()?;
    maintain_endpoint(writer, &id)
}

fn maintain_endpoint(writer: &Writer, id: &str) -> Result<Option<Value>, Failure> {
    let is_on = match writer.question.text("enable") {
        Some("true" | "True" | "1") => true,
        Some("false" | "False" | "0") => false,
        _ => return Err(Failure::bad("Missing value for enable")),
    };
    let usual = "Maintenance mode is enabled for this service, but no reason was provided. This is a default message.";
    let reason = writer.question.text("reason").unwrap_or(usual);
    writer.change(id, &writer.facts.node, |endpoint| {
        endpoint.spec.maintenance = is_on.then(|| Maintenance {
            reason: reason.to_owned(),
        });
        Ok(())
    })?;
    Ok(None)
}

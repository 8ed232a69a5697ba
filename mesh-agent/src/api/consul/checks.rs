//! What Consul clients change of checks, and what those with a TTL say.

use serde_json::Value;

use super::failure::Failure;
use super::instance::node_of;
use super::write::{Writer, object};
use super::{definition, name};
use crate::state::check::{self, Check};
use crate::state::endpoint::{Endpoint, HealthStatus};
use crate::state::object::ObjectKey;

impl Writer {
    /// The endpoint with a check, and whether that has a TTL. Those of the caller on this node come before others that
    /// have a check of the same id: nobody takes in what is said for another.
    fn check(&self, id: &str) -> Result<(ObjectKey, bool), Failure> {
        let snapshot = self.snapshot();
        let namespace = &self.question.namespace;
        // The usual id names the service; only other ones are searched for.
        let usual = id.strip_prefix("service:").map(|rest| {
            let bare = rest.rsplit_once(':').map(|(bare, _)| bare);
            [Some(rest), bare]
        });
        let named = usual.into_iter().flatten().flatten();
        let named = named.filter_map(|id| {
            let key = self.key_of(id, &self.facts.node);
            snapshot.endpoints.get(&key)
        });
        let all = snapshot.endpoints.range(ObjectKey::new(namespace, "")..);
        let all = all.take_while(|(key, _)| key.namespace == *namespace);
        let mut found = named.chain(all.map(|(_, it)| it)).filter_map(|endpoint| {
            let is_ours = self.context.writer.is_responsible(&endpoint.metadata);
            let mut checks = endpoint.spec.checks.iter().filter(|_| is_ours);
            let check = checks.find(|it| it.id == id)?;
            Some((endpoint, check.ttl.is_some()))
        });
        let is_own = |endpoint: &Endpoint| {
            node_of(&self.facts, endpoint) == self.facts.node && self.may(endpoint).is_ok()
        };
        let unknown = || {
            Failure::absent(format!(
                "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
            ))
        };
        let first = found.next().ok_or_else(unknown)?;
        let is_first = is_own(first.0);
        let own = found.find(|(endpoint, _)| !is_first && is_own(endpoint));
        let (endpoint, has_ttl) = own.unwrap_or(first);
        self.may(endpoint)?;
        Ok((endpoint.key(), has_ttl))
    }

    fn beat(&self, status: HealthStatus, output: String) -> Result<Option<Value>, Failure> {
        let id = &self.argument;
        let (endpoint, has_ttl) = self.check(id)?;
        if !has_ttl {
            return Err(Failure::bad(format!(
                "CheckID {id:?} does not have associated TTL"
            )));
        }
        let output = check::shortened(output);
        let heard = (endpoint, id.clone());
        self.context.node.beat(&heard, status, output)?;
        Ok(None)
    }

    /// Gives an instance of a node a check, in place of the one with its id.
    pub(super) fn put_check(&self, id: &str, node: &str, check: &Check) -> Result<(), Failure> {
        self.change(id, node, |endpoint| {
            let checks = &mut endpoint.spec.checks;
            match checks.iter_mut().find(|it| it.id == check.id) {
                Some(old) => *old = check.clone(),
                None => checks.push(check.clone()),
            }
            Ok(())
        })
    }

    fn note(&self) -> String {
        self.question.text("note").unwrap_or_default().to_owned()
    }
}

/// `PUT /v1/agent/check/register`; without a service it is one of this node.
pub(super) fn register_check(writer: &Writer, body: &[u8]) -> Result<Option<Value>, Failure> {
    let mut fields = object(body)?;
    let service = fields.text("ServiceID")?;
    let check = definition::check(fields, ("", ""))?;
    let title = check.name.clone().unwrap_or_default();
    if title.is_empty() {
        return Err(Failure::bad("Missing check name"));
    }
    let mut check = check;
    if check.id.is_empty() {
        check.id = title;
    }
    writer.resolve_alias(&mut check, &writer.facts.node);
    let id = match service {
        Some(id) => id,
        None => writer.own_node()?,
    };
    writer.put_check(&id, &writer.facts.node, &check)?;
    Ok(None)
}

/// `PUT /v1/agent/check/deregister/ID`.
pub(super) fn deregister_check(writer: &Writer, _body: &[u8]) -> Result<Option<Value>, Failure> {
    let (key, _) = writer.check(&writer.argument)?;
    let snapshot = writer.snapshot();
    let Some(endpoint) = snapshot.endpoints.get(&key) else {
        return Ok(None);
    };
    let id = name::given(&endpoint.metadata).to_owned();
    let node = node_of(&writer.facts, endpoint).to_owned();
    writer.change(&id, &node, |endpoint| {
        endpoint.spec.checks.retain(|it| it.id != writer.argument);
        Ok(())
    })?;
    Ok(None)
}

/// `PUT /v1/agent/check/pass/ID?note=..`.
pub(super) fn pass(writer: &Writer, _body: &[u8]) -> Result<Option<Value>, Failure> {
    writer.beat(HealthStatus::Passing, writer.note())
}

/// `PUT /v1/agent/check/warn/ID?note=..`.
pub(super) fn warn(writer: &Writer, _body: &[u8]) -> Result<Option<Value>, Failure> {
    writer.beat(HealthStatus::Warning, writer.note())
}

/// `PUT /v1/agent/check/fail/ID?note=..`.
pub(super) fn fail(writer: &Writer, _body: &[u8]) -> Result<Option<Value>, Failure> {
    writer.beat(HealthStatus::Critical, writer.note())
}

/// `PUT /v1/agent/check/update/ID` with status and output.
pub(super) fn update(writer: &Writer, body: &[u8]) -> Result<Option<Value>, Failure> {
    let mut fields = object(body)?;
    let status = definition::status(&fields.text("Status")?.unwrap_or_default())?;
    let output = fields.text("Output")?.unwrap_or_default();
    fields.end()?;
    writer.beat(status, output)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::api::Context;
    use crate::api::consul::Scope;
    use crate::api::consul::question::Question;
    use crate::api::tests::{FixedNode, config};
    use crate::state::object::Kind;
    use crate::state::{Change, Store, decode};

    fn put(store: &Store, name: &str, address: &str, node: &str) {
        let spec = json!({"service": "web", "address": address, "locality": {"node": node},
            "checks": [{"id": "alive", "ttl": "10s"}, {"id": name, "ttl": "10s"}]});
        let key = ObjectKey::new("shop", name);
        let manifest = decode::manifest(Kind::Endpoint, &key, json!({ "spec": spec }));
        let change = Change::Put(manifest.expect("it is right"));
        store.apply(change).expect("it is right");
    }

    /// What is found for a workload at an address, or for anybody.
    fn find(store: &Arc<Store>, address: Option<&str>, id: &str) -> Result<String, StatusCode> {
        let node = Arc::new(FixedNode::default());
        let context = Context::new(&config(), Arc::clone(store), node);
        let question = Question::read(Vec::new(), "shop").map_err(|it| it.status)?;
        let scope = address.map(|address| {
            Arc::new(Scope {
                namespace: "shop".to_owned(),
                addresses: address.parse().into_iter().collect(),
            })
        });
        let writer = Writer {
            facts: context.consul.facts(),
            question,
            scope,
            argument: String::new(),
            context,
        };
        let found = writer.check(id).map_err(|it| it.status)?;
        Ok(found.0.name)
    }

    #[test]
    fn own_checks_come_before_those_of_neighbours() {
        let store = Arc::new(Store::in_memory());
        put(&store, "a-far", "10.0.0.2", "far");
        put(&store, "b-neighbour", "10.0.0.3", "here");
        put(&store, "web-1", "10.0.0.4", "here");
        let find = |address: Option<&str>, id: &str| find(&store, address, id);
        assert_eq!(find(Some("10.0.0.4"), "alive").as_deref(), Ok("web-1"));
        assert_eq!(find(Some("10.0.0.9"), "alive"), Err(StatusCode::FORBIDDEN));
        assert_eq!(find(None, "alive").as_deref(), Ok("b-neighbour"));
        assert_eq!(find(None, "a-far").as_deref(), Ok("a-far"), "only there");
        assert_eq!(find(None, "nowhere"), Err(StatusCode::NOT_FOUND));
    }
}

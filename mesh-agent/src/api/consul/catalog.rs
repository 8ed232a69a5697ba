//! Writing the catalog: services, checks and nodes that some other program looks after.

use std::net::IpAddr;

use serde_json::Value;

use super::definition::{Origin, Registration};
use super::failure::Failure;
use super::fields::Fields;
use super::instance::{Instance, node_of};
use super::write::{Writer, kept, object};
use super::{definition, name};
use crate::state::check::shortened;
use crate::state::endpoint::Locality;
use crate::state::object::ObjectKey;

/// `PUT /v1/catalog/register`: a service, a check or a node that some other program looks after.
pub(super) fn register(writer: &Writer, body: &[u8]) -> Result<Option<Value>, Failure> {
    let mut fields = object(body)?;
    fields.skip(&[
        "Datacenter",
        "ID",
        "SkipNodeUpdate",
        "NodeMeta",
        "TaggedAddresses",
        "Partition",
        "Namespace",
    ]);
    let node = fields
        .text("Node")?
        .ok_or_else(|| Failure::bad("Must provide a node"))?;
    if writer.scope.is_some() && node != writer.facts.node {
        return Err(Failure::forbidden(
            "Permission denied: a workload may not speak for another node",
        ));
    }
    let given = fields.text("Address")?;
    let given =
        given.ok_or_else(|| Failure::bad("Must provide address if SkipNodeUpdate is not set"))?;
    let address: IpAddr = given
        .parse()
        .map_err(|_not| Failure::bad("Address must be an IP address"))?;
    let service = fields.object("Service")?;
    let check = fields.object("Check")?;
    let mut checks = fields.objects("Checks")?;
    checks.extend(check);
    fields.end()?;
    let locality = Locality {
        node: Some(node.clone()),
        ..Locality::default()
    };
    let origin = Origin {
        namespace: &writer.question.namespace,
        address: Some(address),
        locality: Some(locality.clone()),
    };
    let id = match service {
        Some(fields) => {
            let Registration {
                service,
                mut endpoint,
                has_checks,
            } = definition::service(fields, "Service", &origin)?;
            let annotations = &mut endpoint.metadata.annotations;
            annotations.insert(name::NODE_ADDRESS.to_owned(), given);
            let id = name::given(&endpoint.metadata).to_owned();
            writer.put(kept(writer, endpoint, has_checks), &service)?;
            Some(id)
        }
        None if checks.is_empty() => {
            Some(writer.node(&node, Some(address), Some(locality.clone()))?)
        }
        None => None,
    };
    for fields in checks {
        state(writer, fields, (&node, address, &locality), id.as_deref())?;
    }
    Ok(Some(Value::Bool(true)))
}

/// A check of the catalog: somebody else makes it, and says what came of it. Here it has a TTL of ten years.
fn state(
    writer: &Writer,
    mut fields: Fields,
    (node, address, locality): (&str, IpAddr, &Locality),
    registered: Option<&str>,
) -> Result<(), Failure> {
    fields.skip(&["Node", "Definition", "ServiceName", "ServiceTags", "Type"]);
    let word = fields.text("Status")?;
    let status = definition::status(word.as_deref().unwrap_or("critical"))?;
    let owner = fields.text("ServiceID")?;
    let title = fields.text("Name")?;
    let id = fields.text("CheckID")?.or_else(|| title.clone());
    let id = id.ok_or_else(|| Failure::bad("a check needs a CheckID or a Name"))?;
    let notes = fields.text("Notes")?;
    let output = fields.text("Output")?.unwrap_or_default();
    fields.skip(&[
        "Namespace",
        "Partition",
        "CreateIndex",
        "ModifyIndex",
        "Interval",
        "Timeout",
        "ExposedPort",
    ]);
    fields.end()?;
    let owner = match owner.as_deref().or(registered) {
        Some(owner) => owner.to_owned(),
        None => writer.node(node, Some(address), Some(locality.clone()))?,
    };
    let value = serde_json::json!({"TTL": "87600h", "CheckID": id, "Status": super::instance::word(status)});
    let usual = title.unwrap_or_else(|| id.clone());
    let mut check = definition::check(Fields::of("", value)?, (&id, &usual))?;
    check.notes = notes;
    writer.put_check(&owner, node, &check)?;
    let key = writer.key_of(&owner, node);
    writer
        .context
        .node
        .beat(&(key, id), status, shortened(output))?;
    Ok(())
}

/// `PUT /v1/catalog/deregister`: a service, a check, or a node with all of its services.
pub(super) fn deregister(writer: &Writer, body: &[u8]) -> Result<Option<Value>, Failure> {
    let mut fields = object(body)?;
    fields.skip(&["Datacenter", "Address", "Namespace", "Partition"]);
    let node = fields
        .text("Node")?
        .ok_or_else(|| Failure::bad("Must provide node"))?;
    let service = fields.text("ServiceID")?;
    let check = fields.text("CheckID")?;
    fields.end()?;
    let snapshot = writer.snapshot();
    let namespace = &writer.question.namespace;
    let all = snapshot.endpoints.range(ObjectKey::new(namespace, "")..);
    let all = all.take_while(|(key, _)| key.namespace == *namespace);
    let of_node = all.filter(|(_, it)| node_of(&writer.facts, it) == node);
    for (_, endpoint) in of_node {
        let instance = Instance::of(&snapshot, &writer.facts, endpoint);
        if let Some(wanted) = &check {
            if !endpoint.spec.checks.iter().any(|it| it.id == *wanted) {
                continue;
            }
            writer.change(instance.id(), &node, |endpoint| {
                endpoint.spec.checks.retain(|it| it.id != *wanted);
                Ok(())
            })?;
        } else if service.as_ref().is_none_or(|it| it == instance.id()) {
            writer.may(endpoint)?;
            writer.remove(endpoint)?;
        }
    }
    // What is not there is as it should be.
    Ok(Some(Value::Bool(true)))
}

/// A request that has nothing to do.
pub(super) fn nothing(writer: &Writer, _body: &[u8]) -> Result<Option<Value>, Failure> {
    match &writer.scope {
        Some(_) => Err(Failure::forbidden("Permission denied")),
        None => Ok(None),
    }
}

//! From a document as somebody wrote it to an object; every refusal names the field.
//!
//! What only the agent writes (`status`, and of the metadata `generation`, `uid`, `creationTimestamp`) is dropped, so
//! that what was read can be written back. A field that this version knows of and does not do yet is refused as
//! `NotSupported`; any other unknown field as `Invalid`. Nothing is ever ignored.

mod strict;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::object::{API_VERSION, Kind, ObjectKey};
use super::resource::{Resource as _, with_kind};
use super::{Manifest, Refusal};

use strict::Strict;

/// Kinds that the model has and this version does not.
pub const LATER_KINDS: [&str; 5] = [
    "requestauthentications",
    "peerauthentications",
    "alerts",
    "gateways",
    "referencegrants",
];

/// Fields that the model has and this version does not, without the indices of lists.
const LATER_FIELDS: [(Kind, &[&str]); 7] = [
    (
        Kind::Service,
        &[
            "spec.mtls",
            "spec.retries",
            "spec.timeouts",
            "spec.healthChecks",
            "spec.trafficPolicy",
        ],
    ),
    (
        Kind::Workload,
        &["spec.mtls", "spec.quotas", "spec.limits", "spec.dns"],
    ),
    (
        Kind::AuthorizationPolicy,
        &[
            "spec.rules.when",
            "spec.rules.from.identities",
            "spec.rules.from.principals",
            "spec.rules.from.requestPrincipals",
            "spec.rules.from.claims",
            "spec.rules.from.jwt",
            "spec.rules.to.methods",
            "spec.rules.to.paths",
            "spec.rules.to.hosts",
            "spec.rules.to.headers",
        ],
    ),
    (Kind::HttpRoute, LATER_ROUTE_FIELDS),
    (Kind::GrpcRoute, LATER_ROUTE_FIELDS),
    (Kind::TcpRoute, LATER_ROUTE_FIELDS),
    (Kind::TlsRoute, LATER_ROUTE_FIELDS),
];

/// The same for routes of the Gateway API.
const LATER_ROUTE_FIELDS: &[&str] = &[
    "spec.useDefaultGateways",
    "spec.rules.filters.extensionRef",
    "spec.rules.filters.externalAuth",
    "spec.rules.backendRefs.filters.extensionRef",
    "spec.rules.backendRefs.filters.externalAuth",
];

/// Values that the model has and this version does not: filters of the Gateway API.
const LATER_VALUES: [&str; 2] = ["ExtensionRef", "ExternalAuth"];

/// Reads the object of kind `kind` and key `key` from `document`. Where the document says what it is, it must agree.
pub fn manifest(kind: Kind, key: &ObjectKey, document: Value) -> Result<Manifest, Refusal> {
    let document = complete(kind, key, document)?;
    with_kind!(kind, R => Ok(R::into_manifest(read::<R>(kind, document)?)))
}

fn complete(kind: Kind, key: &ObjectKey, document: Value) -> Result<Value, Refusal> {
    let Value::Object(mut document) = document else {
        return Err(Refusal::invalid("", "a JSON object is expected"));
    };
    let versions = kind.api_versions();
    let version = document.get("apiVersion").and_then(Value::as_str);
    let is_known = version.is_some_and(|version| versions.contains(&version));
    if is_known {
        document.remove("apiVersion");
    }
    let newest = versions.first().copied().unwrap_or_default();
    agree(&mut document, "apiVersion", "apiVersion", newest)?;
    agree(&mut document, "kind", "kind", kind.name())?;
    document.remove("status");
    let metadata = document
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(metadata) = metadata else {
        return Err(Refusal::invalid("metadata", "an object is expected"));
    };
    agree(metadata, "name", "metadata.name", &key.name)?;
    agree(metadata, "namespace", "metadata.namespace", &key.namespace)?;
    for not_for_us in NOT_FOR_US {
        metadata.remove(not_for_us);
    }
    // An object of Kubernetes comes with the uid that its API server gave; by it the store knows a foreign version.
    let is_ours = newest == API_VERSION;
    if is_ours || !metadata.get(UID).is_some_and(Value::is_string) {
        metadata.remove(UID);
    }
    Ok(Value::Object(document))
}

/// Metadata that the agent writes, and what an API server of Kubernetes adds to what it prints.
const NOT_FOR_US: [&str; 12] = [
    "generation",
    "source",
    "origin",
    "creationTimestamp",
    "createdAt",
    "updatedAt",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// Names an object of one registry, also against a later one of the same name.
const UID: &str = "uid";

/// Fills in what is absent; what is there must be `expected`.
fn agree(
    object: &mut Map<String, Value>,
    name: &str,
    field: &str,
    expected: &str,
) -> Result<(), Refusal> {
    match object.get(name) {
        None => {
            object.insert(name.to_owned(), Value::from(expected));
            Ok(())
        }
        Some(Value::String(text)) if text == expected => Ok(()),
        Some(other) => Err(Refusal::invalid(
            field,
            format!("{expected:?} is expected here, not {other}"),
        )),
    }
}

fn read<T: DeserializeOwned>(kind: Kind, document: Value) -> Result<Arc<T>, Refusal> {
    serde_path_to_error::deserialize(Strict(document))
        .map(Arc::new)
        .map_err(|error| refusal(kind, &error.path().to_string(), &error.inner().to_string()))
}

fn refusal(kind: Kind, path: &str, message: &str) -> Refusal {
    let mut field = if path == "." {
        String::new()
    } else {
        path.to_owned()
    };
    if let Some(missing) = quoted(message, "missing field `") {
        if !field.is_empty() {
            field.push('.');
        }
        field.push_str(missing);
        return Refusal::invalid(field, "is needed");
    }
    if quoted(message, "unknown field `").is_some() {
        return if is_later(kind, &field) {
            Refusal::not_supported(field, "this version does not do this yet")
        } else {
            Refusal::invalid(field, message)
        };
    }
    if let Some(unknown) = quoted(message, "unknown variant `") {
        if LATER_VALUES.contains(&unknown) {
            return Refusal::not_supported(field, "this version does not do this yet");
        }
        // Every second part stands between backquotes; the first of them is the unknown one.
        let mut known = message.split('`').skip(1).step_by(2).skip(1);
        if let Some(meant) = known.find(|it| it.eq_ignore_ascii_case(unknown)) {
            return Refusal::invalid(field, format!("{unknown} is spelled {meant}"));
        }
    }
    for scalar in ["integer `", "boolean `", "floating point `"] {
        let found = quoted(message, &format!("invalid type: {scalar}"));
        if let Some(found) = found.filter(|_| message.ends_with("expected a string")) {
            let message = format!("a text is expected: write \"{found}\", in quotes");
            return Refusal::invalid(field, message);
        }
    }
    Refusal::invalid(field, message)
}

/// What stands between `start` and the next backquote.
fn quoted<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    message.strip_prefix(start)?.split('`').next()
}

fn is_later(kind: Kind, field: &str) -> bool {
    let plain: Vec<&str> = field
        .split('.')
        .map(|part| part.split('[').next().unwrap_or(part))
        .collect();
    let plain = plain.join(".");
    LATER_FIELDS
        .iter()
        .any(|(owner, fields)| *owner == kind && fields.contains(&plain.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(kind: Kind, document: Value) -> (String, String) {
        match manifest(kind, &ObjectKey::new("shop", "web"), document) {
            Err(Refusal::Invalid { field, reason, .. }) => (field, reason),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn what_the_path_says_is_filled_in_and_what_the_agent_writes_is_dropped() {
        let document = json!({
            "metadata": {"uid": "x", "generation": 7, "creationTimestamp": null, "resourceVersion": "4"},
            "spec": {"ports": [{"name": "http", "port": 80}]},
            "status": {"nonsense": true},
        });

        let read = manifest(Kind::Service, &ObjectKey::new("shop", "web"), document).unwrap();

        assert_eq!(read.key(), ObjectKey::new("shop", "web"));
        assert_eq!(read.metadata().resource_version, "4");
        assert_eq!(read.metadata().generation, 0);
        assert_eq!(read.metadata().uid, "");
    }

    fn check(kind: Kind, document: Value, field: &str, reason: &str) {
        assert_eq!(
            refused(kind, document.clone()),
            (field.to_owned(), reason.to_owned()),
            "{document}"
        );
    }

    #[test]
    fn every_refusal_names_the_field() {
        let service = Kind::Service;
        check(service, json!([]), "", "Invalid");
        check(service, json!({}), "spec", "Invalid");
        check(service, json!({"spec": {}}), "spec.ports", "Invalid");
        check(service, json!({"spec": 1}), "spec", "Invalid");
        check(service, json!({"kind": "Endpoint"}), "kind", "Invalid");
        check(
            service,
            json!({"apiVersion": "v1"}),
            "apiVersion",
            "Invalid",
        );
        check(service, json!({"metadata": 1}), "metadata", "Invalid");
        check(
            service,
            json!({"metadata": {"name": "db"}}),
            "metadata.name",
            "Invalid",
        );
        check(
            service,
            json!({"metadata": {"namespace": 3}}),
            "metadata.namespace",
            "Invalid",
        );
        check(
            service,
            json!({"spec": {"ports": [{"name": "a", "port": 70_000}]}}),
            "spec.ports[0].port",
            "Invalid",
        );
        check(
            service,
            json!({"spec": {"ports": [{"name": "a", "port": 1, "protocol": "smtp"}]}}),
            "spec.ports[0].protocol",
            "Invalid",
        );
        check(
            service,
            json!({"spec": {"ports": [], "prots": []}}),
            "spec.prots",
            "Invalid",
        );
    }

    #[test]
    fn empty_list_in_a_rule_does_not_pass_for_an_absent_one() {
        for (rule, list) in [
            (json!({"from": []}), "from"),
            (json!({"from": [{"namespaces": []}]}), "from[0].namespaces"),
            (
                json!({"from": [{"namespaces": ["shop"], "serviceAccounts": []}]}),
                "from[0].serviceAccounts",
            ),
            (json!({"from": [{"cidrs": []}]}), "from[0].cidrs"),
            (json!({"to": []}), "to"),
            (json!({"to": [{"ports": []}]}), "to[0].ports"),
        ] {
            let target = json!({"kind": "Service", "name": "web"});
            let spec = json!({"target": target, "action": "Allow", "rules": [{}, rule]});
            check(
                Kind::AuthorizationPolicy,
                json!({ "spec": spec }),
                &format!("spec.rules[1].{list}"),
                "Invalid",
            );
        }
    }

    #[test]
    fn list_in_place_of_an_object_is_refused_wherever_it_stands() {
        let policy = |field: &str, value: Value| {
            let mut document = json!({"spec": {"target": {"kind": "Service", "name": "web"}}});
            document["spec"][field] = value;
            (Kind::TrafficPolicy, document)
        };
        let service = |spec: Value| (Kind::Service, json!({ "spec": spec }));
        for ((kind, document), wanted) in [
            (policy("retries", json!([])), "spec.retries"),
            (policy("target", json!(["Service", "web"])), "spec.target"),
            (policy("hedging", json!(["p95"])), "spec.hedging"),
            (
                policy("retries", json!({"backoff": ["25ms", "1s"]})),
                "spec.retries.backoff",
            ),
            (policy("rateLimits", json!([[]])), "spec.rateLimits[0]"),
            (service(json!([[], [["http", 80]]])), "spec"),
            (service(json!({"ports": [["http", 80]]})), "spec.ports[0]"),
            (service(json!({"ports": [], "meta": []})), "spec.meta"),
        ] {
            match manifest(kind, &ObjectKey::new("shop", "web"), document) {
                Err(Refusal::Invalid { field, message, .. }) => assert_eq!(
                    (field.as_str(), message.as_str()),
                    (wanted, "an object is expected")
                ),
                other => panic!("not refused: {other:?}"),
            }
        }
    }

    #[test]
    fn what_was_meant_is_said() {
        let said = |spec: Value| {
            let document = json!({ "spec": spec });
            match manifest(
                Kind::TrafficPolicy,
                &ObjectKey::new("shop", "web"),
                document,
            ) {
                Err(refusal) => refusal.to_string(),
                other => panic!("not refused: {other:?}"),
            }
        };
        assert_eq!(
            said(json!({"target": {"kind": "service", "name": "web"}})),
            "spec.target.kind: service is spelled Service"
        );
        let target = json!({"kind": "Service", "name": "web"});
        assert_eq!(
            said(json!({"target": target, "retries": {"on": [503]}})),
            "spec.retries.on[0]: a text is expected: write \"503\", in quotes"
        );
    }

    #[test]
    fn what_kubectl_prints_is_read() {
        let document = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
                "creationTimestamp": "2026-01-02T03:04:05Z", "generation": 3, "managedFields": [{"manager": "kubectl"}],
                "name": "web", "namespace": "shop", "resourceVersion": "123456",
                "uid": "0a1b2c3d-0000-4000-8000-000000000000"
            },
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
                "rules": [{
                    "backendRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 1}],
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}]
                }]
            },
            "status": {"parents": [{"controllerName": "example.com/mesh"}]}
        });

        let read = manifest(Kind::HttpRoute, &ObjectKey::new("shop", "web"), document).unwrap();

        assert_eq!(read.metadata().uid, "0a1b2c3d-0000-4000-8000-000000000000");
        assert_eq!(read.metadata().resource_version, "123456");
        assert_eq!(read.metadata().generation, 0);
    }

    #[test]
    fn filter_of_a_later_version_is_not_supported() {
        let with = |filter: Value| json!({"spec": {"rules": [{"filters": [filter]}]}});
        let kind = Kind::HttpRoute;
        let reference = json!({"group": "a.b", "kind": "C", "name": "d"});
        let document = with(json!({"type": "ExtensionRef", "extensionRef": reference}));
        check(
            kind,
            document,
            "spec.rules[0].filters[0].extensionRef",
            "NotSupported",
        );
        let document = with(json!({"type": "ExtensionRef"}));
        check(
            kind,
            document,
            "spec.rules[0].filters[0].type",
            "NotSupported",
        );
        let document = with(json!({"type": "Nonsense"}));
        check(kind, document, "spec.rules[0].filters[0].type", "Invalid");
    }

    #[test]
    fn field_of_a_later_version_is_not_supported() {
        let service = Kind::Service;
        check(
            service,
            json!({"spec": {"ports": [], "mtls": {}}}),
            "spec.mtls",
            "NotSupported",
        );
        check(
            Kind::Workload,
            json!({"spec": {"mtls": "Strict"}}),
            "spec.mtls",
            "NotSupported",
        );
        check(
            Kind::AuthorizationPolicy,
            json!({"spec": {"target": {"kind": "Service", "name": "web"}, "action": "Allow",
                "rules": [{}, {"to": [{"methods": ["GET"]}]}]}}),
            "spec.rules[1].to[0].methods",
            "NotSupported",
        );
    }
}

//! Rules of what services and endpoints say of themselves: tags, settings, weights, life cycle, checks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method, Uri};

use super::{MAX_WEIGHT, bound, name};
use crate::state::Refusal;
use crate::state::check::{AliasTarget, Check, GrpcTarget, HttpTarget, OBSERVED, TlsTarget};
use crate::state::duration::Duration;
use crate::state::endpoint::{EndpointSpec, Lifecycle, Weights};
use crate::state::service::ServiceSpec;

/// Most tags, and most names in `meta`, of an object.
const MAX_TAGS: usize = 64;
/// Longest tag.
const MAX_TAG: usize = 255;
/// Longest name in `meta`, as in Consul.
const MAX_META_NAME: usize = 128;
/// Longest value in `meta`, as in Consul.
const MAX_META_VALUE: usize = 512;
/// Most dependencies of a service.
const MAX_DEPENDENCIES: usize = 256;
/// Most settings of a service.
const MAX_SETTINGS: usize = 1024;
/// Longest name of a setting.
const MAX_SETTING_NAME: usize = 512;
/// Bytes of all settings of a service, names and values.
const MAX_SETTINGS_BYTES: usize = 1 << 20;
/// Most checks of an endpoint.
const MAX_CHECKS: usize = 32;
/// Longest id or name of a check.
const MAX_CHECK_NAME: usize = 253;
/// Longest note, reason, URL.
const MAX_NOTE: usize = 1024;
/// Most fields in the head of a request that checks.
const MAX_HEADERS: usize = 32;
/// Longest value of such a field.
const MAX_HEADER: usize = 4 << 10;
/// Longest body of a request that checks.
const MAX_BODY: usize = 64 << 10;
/// Checks in a row that anybody would wait for.
const MAX_IN_A_ROW: u32 = 1000;

const SHORTEST: Duration = Duration::from_millis(100);
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Longest that a check waits, and holds up others of its kind.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(86_400);
/// The TTL of what is said once and holds.
const DECADE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What a service says of itself.
pub(super) fn service(spec: &ServiceSpec) -> Result<(), Refusal> {
    tags(&spec.tags)?;
    meta(&spec.meta)?;
    if spec.portless && !spec.addresses.is_empty() {
        return Err(Refusal::invalid(
            "spec.addresses",
            "a portless service is not dialled, and has no addresses",
        ));
    }
    bound::at_most("spec.dependencies", &spec.dependencies, MAX_DEPENDENCIES)?;
    for (index, dependency) in spec.dependencies.iter().enumerate() {
        let field = format!("spec.dependencies[{index}]");
        name::subdomain(&format!("{field}.name"), &dependency.name)?;
        if let Some(namespace) = &dependency.namespace {
            name::label(&format!("{field}.namespace"), namespace)?;
        }
    }
    if let Some(index) = bound::repeated(&spec.dependencies) {
        let field = format!("spec.dependencies[{index}]");
        return Err(Refusal::invalid(field, "it is there twice"));
    }
    settings(&spec.configuration)
}

fn settings(settings: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let field = "spec.configuration";
    if settings.len() > MAX_SETTINGS {
        let message = format!("at most {MAX_SETTINGS} settings, not {}", settings.len());
        return Err(Refusal::invalid(field, message));
    }
    for key in settings.keys() {
        bound::length(&format!("{field}.{key}"), key, 1..=MAX_SETTING_NAME)?;
    }
    let bytes: usize = settings.iter().map(|(key, it)| key.len() + it.len()).sum();
    if bytes > MAX_SETTINGS_BYTES {
        let message = format!("at most {MAX_SETTINGS_BYTES} bytes together, not {bytes}");
        return Err(Refusal::invalid(field, message));
    }
    Ok(())
}

/// What an endpoint says of itself.
pub(super) fn endpoint(spec: &EndpointSpec) -> Result<(), Refusal> {
    bound::within("spec.weight", spec.weight, 0..=MAX_WEIGHT)?;
    if let Some(given) = spec.weights {
        weights(given, spec.weight)?;
    }
    tags(&spec.tags)?;
    meta(&spec.meta)?;
    if spec.draining && spec.lifecycle == Lifecycle::Starting {
        return Err(Refusal::invalid(
            "spec.draining",
            "it is starting, as lifecycle says",
        ));
    }
    if let Some(time) = spec.drain_for {
        bound::time("spec.drainFor", time, SECOND..=DAY)?;
    }
    if let Some(maintenance) = &spec.maintenance {
        let reason = &maintenance.reason;
        bound::length("spec.maintenance.reason", reason, 0..=MAX_NOTE)?;
    }
    bound::at_most("spec.checks", &spec.checks, MAX_CHECKS)?;
    for (index, it) in spec.checks.iter().enumerate() {
        check(&format!("spec.checks[{index}]"), it)?;
    }
    match bound::repeated(spec.checks.iter().map(|it| &it.id)) {
        Some(index) => Err(Refusal::invalid(
            format!("spec.checks[{index}].id"),
            "another check has this id",
        )),
        None => Ok(()),
    }
}

fn weights(weights: Weights, short: u32) -> Result<(), Refusal> {
    bound::within("spec.weights.passing", weights.passing, 0..=MAX_WEIGHT)?;
    bound::within_if("spec.weights.warning", weights.warning, 0..=MAX_WEIGHT)?;
    // One is what stands there when nothing was written.
    if short != 1 && short != weights.passing {
        return Err(Refusal::invalid(
            "spec.weight",
            "contradicts spec.weights.passing; one of them is enough",
        ));
    }
    Ok(())
}

fn tags(tags: &[String]) -> Result<(), Refusal> {
    bound::at_most("spec.tags", tags, MAX_TAGS)?;
    for (index, tag) in tags.iter().enumerate() {
        bound::length(&format!("spec.tags[{index}]"), tag, 1..=MAX_TAG)?;
    }
    Ok(())
}

fn meta(meta: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if meta.len() > MAX_TAGS {
        let message = format!("at most {MAX_TAGS} names, not {}", meta.len());
        return Err(Refusal::invalid("spec.meta", message));
    }
    for (key, value) in meta {
        let field = format!("spec.meta.{key}");
        bound::length(&field, key, 1..=MAX_META_NAME)?;
        bound::length(&field, value, 0..=MAX_META_VALUE)?;
    }
    Ok(())
}

fn check(field: &str, spec: &Check) -> Result<(), Refusal> {
    let of = |name: &str| format!("{field}.{name}");
    bound::length(&of("id"), &spec.id, 1..=MAX_CHECK_NAME)?;
    if spec.id == OBSERVED {
        return Err(Refusal::invalid(of("id"), "the agent uses this id itself"));
    }
    if let Some(name) = &spec.name {
        bound::length(&of("name"), name, 1..=MAX_CHECK_NAME)?;
    }
    if let Some(notes) = &spec.notes {
        bound::length(&of("notes"), notes, 0..=MAX_NOTE)?;
    }
    let given = [
        ("ttl", spec.ttl.is_some()),
        ("http", spec.http.is_some()),
        ("tcp", spec.tcp.is_some()),
        ("grpc", spec.grpc.is_some()),
        ("alias", spec.alias.is_some()),
    ];
    bound::exactly_one(field, &given)?;
    if let Some(ttl) = spec.ttl {
        bound::time(&of("ttl"), ttl, SHORTEST..=DECADE)?;
    }
    if let Some(target) = &spec.http {
        http(&of("http"), target)?;
    }
    if let Some(target) = &spec.tcp {
        authority(&of("tcp.address"), &target.address)?;
    }
    if let Some(target) = &spec.grpc {
        grpc(&of("grpc"), target)?;
    }
    if let Some(target) = &spec.alias {
        alias(&of("alias"), target)?;
    }
    if let Some(target) = &spec.tls {
        tls(&of("tls"), target, spec)?;
    }
    bound::time(&of("interval"), spec.interval, SHORTEST..=DAY)?;
    bound::time(&of("timeout"), spec.timeout, MILLISECOND..=MAX_TIMEOUT)?;
    if let Some(time) = spec.deregister_critical_after {
        let longest = Duration::from_secs(30 * 86_400);
        bound::time(&of("deregisterCriticalAfter"), time, SECOND..=longest)?;
    }
    let in_a_row = [
        ("successBeforePassing", Some(spec.success_before_passing)),
        ("failuresBeforeWarning", spec.failures_before_warning),
        (
            "failuresBeforeCritical",
            Some(spec.failures_before_critical),
        ),
    ];
    for (name, value) in in_a_row {
        bound::within_if(&of(name), value, 0..=MAX_IN_A_ROW)?;
    }
    let critical = spec.failures_before_critical;
    bound::within_if(
        &of("failuresBeforeWarning"),
        spec.failures_before_warning,
        0..=critical,
    )
}

fn http(field: &str, target: &HttpTarget) -> Result<(), Refusal> {
    let url = format!("{field}.url");
    bound::length(&url, &target.url, 1..=MAX_NOTE)?;
    let parsed = target.url.parse::<Uri>().ok();
    let scheme = parsed.as_ref().and_then(Uri::scheme_str);
    let has_host = |it: &Uri| it.host().is_some_and(|host| !host.is_empty());
    if !matches!(scheme, Some("http" | "https")) || !parsed.as_ref().is_some_and(has_host) {
        return Err(Refusal::invalid(
            url,
            "a URL such as http://10.0.0.3:8080/health",
        ));
    }
    let method = Method::from_bytes(target.method.as_bytes());
    if !method.is_ok_and(|it| it != Method::CONNECT) {
        let field = format!("{field}.method");
        return Err(Refusal::invalid(field, "a method of HTTP such as GET"));
    }
    if target.headers.len() > MAX_HEADERS {
        let message = format!("at most {MAX_HEADERS} fields");
        return Err(Refusal::invalid(format!("{field}.headers"), message));
    }
    for (name, value) in &target.headers {
        let field = format!("{field}.headers.{name}");
        if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err()
        {
            return Err(Refusal::invalid(field, "a name and a value of HTTP"));
        }
        bound::length(&field, value, 0..=MAX_HEADER)?;
    }
    let body = target.body.as_deref().unwrap_or_default();
    bound::length(&format!("{field}.body"), body, 0..=MAX_BODY)
}

fn grpc(field: &str, target: &GrpcTarget) -> Result<(), Refusal> {
    authority(&format!("{field}.address"), &target.address)?;
    match &target.service {
        Some(service) => bound::length(&format!("{field}.service"), service, 1..=MAX_NOTE),
        None => Ok(()),
    }
}

fn tls(field: &str, target: &TlsTarget, spec: &Check) -> Result<(), Refusal> {
    let asks_over_tls = spec.http.as_ref().map_or_else(
        || spec.tcp.is_some() || spec.grpc.is_some(),
        HttpTarget::is_https,
    );
    if !asks_over_tls {
        return Err(Refusal::invalid(
            field,
            "is for https://, tcp and grpc only",
        ));
    }
    match &target.server_name {
        Some(name) if name.parse::<IpAddr>().is_err() => {
            name::subdomain(&format!("{field}.serverName"), &name.to_ascii_lowercase())
        }
        _ => Ok(()),
    }
}

/// `HOST:PORT`.
fn authority(field: &str, text: &str) -> Result<(), Refusal> {
    let authority = text.parse::<http::uri::Authority>().ok();
    let is_good = authority.is_some_and(|it| {
        !it.host().is_empty() && it.port_u16().is_some_and(|port| port > 0) && !text.contains('@')
    });
    if is_good {
        return Ok(());
    }
    Err(Refusal::invalid(field, "HOST:PORT, such as 10.0.0.3:5432"))
}

fn alias(field: &str, target: &AliasTarget) -> Result<(), Refusal> {
    let given = [
        ("endpoint", target.endpoint.is_some()),
        ("service", target.service.is_some()),
    ];
    bound::exactly_one(field, &given)?;
    for (part, given) in [("endpoint", &target.endpoint), ("service", &target.service)] {
        if let Some(text) = given {
            name::subdomain(&format!("{field}.{part}"), text)?;
        }
    }
    match &target.namespace {
        Some(namespace) => name::label(&format!("{field}.namespace"), namespace),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(spec: &Value) -> String {
        let mut whole = json!({"service": "web", "address": "10.0.0.3"});
        for (name, value) in spec.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let spec: EndpointSpec = serde_json::from_value(whole).unwrap();
        match endpoint(&spec) {
            Ok(()) => "accepted".to_owned(),
            Err(Refusal::Invalid { field, .. }) => field,
            Err(other) => panic!("another refusal: {other:?}"),
        }
    }

    fn check_of(fields: Value) -> String {
        let mut check = json!({"id": "alive"});
        for (name, value) in fields.as_object().unwrap() {
            check[name] = value.clone();
        }
        refused(&json!({"checks": [check]}))
    }

    #[test]
    fn every_refusal_of_a_check_names_the_field() {
        assert_eq!(check_of(json!({"ttl": "10s"})), "accepted");
        assert_eq!(
            check_of(json!({"ttl": "10s", "id": OBSERVED})),
            "spec.checks[0].id"
        );
        assert_eq!(check_of(json!({})), "spec.checks[0]");
        let two = json!({"ttl": "10s", "tcp": {"address": "10.0.0.3:1"}});
        assert_eq!(check_of(two), "spec.checks[0].tcp");
        assert_eq!(check_of(json!({"ttl": "1ms"})), "spec.checks[0].ttl");
        assert_eq!(
            check_of(json!({"ttl": "10s", "timeout": "11m"})),
            "spec.checks[0].timeout"
        );
        let http = |url: &str| check_of(json!({"http": {"url": url}}));
        assert_eq!(http("http://localhost:8080/health?deep=1"), "accepted");
        for url in ["ftp://a/", "/health", "https:///", "http:///", ""] {
            assert_eq!(http(url), "spec.checks[0].http.url", "{url}");
        }
        let tls = |mut check: Value, tls: Value| {
            check["tls"] = tls;
            check_of(check)
        };
        let https = json!({"http": {"url": "HTTPS://a/"}});
        let named = json!({"serverName": "web.example", "insecureSkipVerify": true});
        for check in [
            https.clone(),
            json!({"tcp": {"address": "a:1"}}),
            json!({"grpc": {"address": "a:1"}}),
        ] {
            assert_eq!(tls(check, named.clone()), "accepted");
        }
        for check in [json!({"http": {"url": "http://a/"}}), json!({"ttl": "1s"})] {
            assert_eq!(tls(check, json!({})), "spec.checks[0].tls");
        }
        let misnamed = tls(https, json!({"serverName": "a b"}));
        assert_eq!(misnamed, "spec.checks[0].tls.serverName");
        let method = json!({"http": {"url": "http://a/", "method": "G T"}});
        assert_eq!(check_of(method), "spec.checks[0].http.method");
        let headers = json!({"http": {"url": "http://a/", "headers": {"a b": "c"}}});
        assert_eq!(check_of(headers), "spec.checks[0].http.headers.a b");
        let long = "x".repeat(MAX_HEADER + 1);
        let headers = json!({"http": {"url": "http://a/", "headers": {"a": long}}});
        assert_eq!(check_of(headers), "spec.checks[0].http.headers.a");
        for address in ["localhost", "a:0", ":80", "a:b", "me@a:80"] {
            let tcp = check_of(json!({"tcp": {"address": address}}));
            assert_eq!(tcp, "spec.checks[0].tcp.address", "{address}");
        }
        assert_eq!(
            check_of(json!({"tcp": {"address": "[fd00::1]:80"}})),
            "accepted"
        );
        assert_eq!(check_of(json!({"alias": {}})), "spec.checks[0].alias");
        assert_eq!(check_of(json!({"alias": {"service": "db"}})), "accepted");
        let after = json!({"ttl": "10s", "deregisterCriticalAfter": "1ms"});
        assert_eq!(check_of(after), "spec.checks[0].deregisterCriticalAfter");
        let warning =
            json!({"ttl": "10s", "failuresBeforeWarning": 2, "failuresBeforeCritical": 1});
        assert_eq!(check_of(warning), "spec.checks[0].failuresBeforeWarning");
        let twice = json!({"checks": [{"id": "a", "ttl": "1s"}, {"id": "a", "ttl": "2s"}]});
        assert_eq!(refused(&twice), "spec.checks[1].id");
    }

    #[test]
    fn what_an_endpoint_says_of_itself_is_bounded() {
        assert_eq!(refused(&json!({"weights": {"warning": 1}})), "accepted");
        assert_eq!(
            refused(&json!({"weight": 3, "weights": {"passing": 4}})),
            "spec.weight"
        );
        assert_eq!(
            refused(&json!({"weights": {"passing": 4, "warning": 1001}})),
            "spec.weights.warning"
        );
        assert_eq!(refused(&json!({"tags": ["a", ""]})), "spec.tags[1]");
        assert_eq!(
            refused(&json!({"meta": {"a": "x".repeat(513)}})),
            "spec.meta.a"
        );
        assert_eq!(refused(&json!({"drainFor": "10ms"})), "spec.drainFor");
        assert_eq!(
            refused(&json!({"draining": true, "lifecycle": "starting"})),
            "spec.draining"
        );
    }

    #[test]
    fn what_a_service_says_of_itself_is_bounded() {
        let refused = |spec: Value| {
            let spec: ServiceSpec = serde_json::from_value(spec).unwrap();
            match service(&spec) {
                Ok(()) => "accepted".to_owned(),
                Err(Refusal::Invalid { field, .. }) => field,
                Err(other) => panic!("another refusal: {other:?}"),
            }
        };
        let with = |name: &str, value: Value| refused(json!({"ports": [], name: value}));
        assert_eq!(with("dependencies", json!([{"name": "db"}])), "accepted");
        assert_eq!(
            with("dependencies", json!([{"name": "db"}, {"name": "db"}])),
            "spec.dependencies[1]"
        );
        assert_eq!(
            with("dependencies", json!([{"name": "DB"}])),
            "spec.dependencies[0].name"
        );
        assert_eq!(
            with("configuration", json!({"": "x"})),
            "spec.configuration."
        );
        let long = json!({"a": "x".repeat(MAX_SETTINGS_BYTES)});
        assert_eq!(with("configuration", long), "spec.configuration");
        let address = json!({"ports": [], "portless": true, "addresses": ["10.0.0.1"]});
        assert_eq!(refused(address), "spec.addresses");
    }
}

//! From a registration as a Consul client writes it to an endpoint. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::failure::Failure;
use super::fields::Fields;
use super::name;
use crate::state::check::{AliasTarget, Check, GrpcTarget, HttpTarget, TcpTarget, TlsTarget};
use crate::state::endpoint::{
    Endpoint, EndpointSpec, EndpointStatus, HealthStatus, Locality, Weights,
};
use crate::state::object::{API_VERSION, Kind, Metadata, Texts};

/// What a service is registered as.
#[derive(Debug)]
pub(super) struct Registration {
    /// The service's name as it was given.
    pub(super) service: String,
    /// The endpoint.
    pub(super) endpoint: Endpoint,
    /// Whether checks that are not in the registration go.
    pub(super) has_checks: bool,
}

/// Where a registration comes from.
pub(super) struct Origin<'a> {
    /// The namespace it is for.
    pub(super) namespace: &'a str,
    /// What an endpoint without an address, or with one of loopback, gets.
    pub(super) address: Option<IpAddr>,
    /// Where it runs.
    pub(super) locality: Option<Locality>,
}

/// Longest name, and longest id, of a service.
const MAX_NAME: usize = 253;

/// Fields of Consul that change nothing here.
const WITHOUT_EFFECT: [&str; 8] = [
    "EnableTagOverride",
    "Namespace",
    "Partition",
    "CreateIndex",
    "ModifyIndex",
    "ContentHash",
    "Datacenter",
    "PeerName",
];

/// Reads `PUT /v1/agent/service/register`, or the `Service` of `PUT /v1/catalog/register`, where the name is in
/// `Service`.
pub(super) fn service(
    mut fields: Fields,
    name_field: &str,
    origin: &Origin<'_>,
) -> Result<Registration, Failure> {
    fields.skip(&WITHOUT_EFFECT);
    let service = named(&mut fields, name_field)?;
    let service = service.ok_or_else(|| Failure::bad("Missing service name"))?;
    let id = named(&mut fields, "ID")?.unwrap_or_else(|| service.clone());
    let given = fields.text("Address")?;
    let mut annotations = Texts::new();
    annotations.extend(name::annotation(&id).map(|(key, value)| (key.to_owned(), value)));
    let address = address(given.as_deref(), origin.address)?;
    if let Some(given) = given.filter(|it| it.parse() != Ok(address)) {
        annotations.insert(name::GIVEN_ADDRESS.to_owned(), given);
    }
    if let Some(tagged) = fields.value("TaggedAddresses") {
        annotations.insert(name::TAGGED_ADDRESSES.to_owned(), tagged.to_string());
    }
    let mut spec = EndpointSpec::new(&name::of(&service), address);
    spec.port = fields.number("Port")?;
    spec.tags = fields.texts("Tags")?;
    spec.meta = fields.map("Meta")?;
    spec.version = spec.meta.get("version").cloned();
    spec.weights = fields.value("Weights").map(weights).transpose()?;
    spec.locality = locality(fields.object("Locality")?, origin.locality.clone())?;
    let check = fields.object("Check")?;
    let checks = fields.objects("Checks")?;
    let has_checks = check.is_some() || !checks.is_empty();
    let all: Vec<Fields> = check.into_iter().chain(checks).collect();
    let is_one = all.len() == 1;
    for (number, fields) in (1..).zip(all) {
        let usual = if is_one {
            format!("service:{id}")
        } else {
            format!("service:{id}:{number}")
        };
        let title = format!("Service '{service}' check");
        spec.checks.push(self::check(fields, (&usual, &title))?);
    }
    fields.end()?;
    let endpoint = Endpoint {
        api_version: API_VERSION.to_owned(),
        kind: Kind::Endpoint,
        metadata: Metadata {
            name: name::of(&id),
            namespace: origin.namespace.to_owned(),
            annotations,
            ..Metadata::default()
        },
        spec,
        status: EndpointStatus::default(),
    };
    Ok(Registration {
        service,
        endpoint,
        has_checks,
    })
}

/// A name or an id: it is kept as it was given.
fn named(fields: &mut Fields, field: &str) -> Result<Option<String>, Failure> {
    let text = fields.text(field)?;
    match text.as_ref().map(String::len) {
        Some(bytes) if bytes > MAX_NAME => Err(Failure::bad(format!(
            "{field} is too long: at most {MAX_NAME} bytes, not {bytes}"
        ))),
        _ => Ok(text),
    }
}

/// The address of an endpoint: loopback is another host in each network namespace, so the node's own stands for it.
fn address(given: Option<&str>, own: Option<IpAddr>) -> Result<IpAddr, Failure> {
    let missing = || {
        Failure::bad(
            "this node has no address that others can reach: give the Address of the service",
        )
    };
    let Some(given) = given.filter(|it| !it.eq_ignore_ascii_case("localhost")) else {
        return own.ok_or_else(missing);
    };
    match given.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() || address.is_unspecified() => own.ok_or_else(missing),
        Ok(address) => Ok(address),
        Err(_) => Err(Failure::bad(format!(
            "Address must be an IP address, not {given:?}: names of hosts are not supported"
        ))),
    }
}

fn weights(value: Value) -> Result<Weights, Failure> {
    let wrong = || Failure::bad("Weights must be {\"Passing\": NUMBER, \"Warning\": NUMBER}");
    let object = value.as_object().ok_or_else(wrong)?;
    let mut weights = Weights {
        passing: 1,
        warning: None,
    };
    for (key, value) in object {
        let number = value.as_u64().and_then(|it| u32::try_from(it).ok());
        let number = number.ok_or_else(wrong)?;
        match key.to_ascii_lowercase().as_str() {
            "passing" => weights.passing = number,
            "warning" => weights.warning = Some(number),
            _ => return Err(wrong()),
        }
    }
    Ok(weights)
}

fn locality(given: Option<Fields>, own: Option<Locality>) -> Result<Option<Locality>, Failure> {
    let Some(mut given) = given else {
        return Ok(own);
    };
    let locality = Locality {
        region: given.text("Region")?,
        zone: given.text("Zone")?,
        node: own.and_then(|it| it.node),
    };
    given.end()?;
    Ok(Some(locality))
}

/// Reads a check. `usual` are the id and the name that it has where it brings none.
pub(super) fn check(mut fields: Fields, usual: (&str, &str)) -> Result<Check, Failure> {
    fields.skip(&WITHOUT_EFFECT);
    // Answers are cut at 4 KiB whatever is asked for, and redirections are an answer like any other.
    fields.skip(&["OutputMaxSize", "DisableRedirects"]);
    let id = fields.text("CheckID")?;
    let id = id.or(fields.text("ID")?);
    let name = fields.text("Name")?;
    let named = name.unwrap_or_else(|| usual.1.to_owned());
    let mut check = empty(id.unwrap_or_else(|| usual.0.to_owned()), named);
    check.notes = fields.text("Notes")?;
    check.ttl = fields.time("TTL")?;
    check.http = http(&mut fields)?;
    let address = fields.text("TCP")?;
    check.tcp = address.map(|address| TcpTarget { address });
    check.grpc = fields.text("GRPC")?.map(|it| grpc(&it));
    check.tls = tls(&mut fields, &check)?;
    check.alias = fields.text("AliasService")?.map(|id| AliasTarget {
        namespace: None,
        endpoint: Some(name::of(&id)),
        service: None,
    });
    let interval = fields.time("Interval")?;
    if interval.is_none() && (check.http.is_some() || check.tcp.is_some() || check.grpc.is_some()) {
        return Err(Failure::bad("Interval must be given for a check that asks"));
    }
    check.interval = interval.unwrap_or(check.interval);
    check.timeout = fields.time("Timeout")?.unwrap_or(check.timeout);
    check.deregister_critical_after = fields.time("DeregisterCriticalServiceAfter")?;
    check.success_before_passing = fields.number("SuccessBeforePassing")?.unwrap_or(0);
    check.failures_before_critical = fields.number("FailuresBeforeCritical")?.unwrap_or(0);
    check.failures_before_warning = fields.number("FailuresBeforeWarning")?;
    if let Some(text) = fields.text("Status")? {
        check.initial_status = status(&text)?;
    }
    fields.end()?;
    let kinds = [
        check.ttl.is_some(),
        check.http.is_some(),
        check.tcp.is_some(),
        check.grpc.is_some(),
        check.alias.is_some(),
    ];
    if kinds.iter().filter(|it| **it).count() != 1 {
        let text = "a check has exactly one of TTL, HTTP, TCP, GRPC and AliasService";
        return Err(Failure::bad(text));
    }
    Ok(check)
}

fn empty(id: String, name: String) -> Check {
    use crate::state::duration::Duration;
    Check {
        id,
        name: Some(name),
        notes: None,
        ttl: None,
        http: None,
        tcp: None,
        grpc: None,
        alias: None,
        tls: None,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(10),
        deregister_critical_after: None,
        success_before_passing: 0,
        failures_before_warning: None,
        failures_before_critical: 0,
        initial_status: HealthStatus::Critical,
    }
}

fn http(fields: &mut Fields) -> Result<Option<HttpTarget>, Failure> {
    let method = fields.text("Method")?;
    let body = fields.text("Body")?;
    let mut headers = BTreeMap::new();
    if let Some(Value::Object(given)) = fields.value("Header") {
        for (name, value) in given {
            let values: Vec<String> = match value {
                Value::String(text) => vec![text],
                other => serde_json::from_value(other)
                    .map_err(|_not| Failure::bad("Header must be names with lists of texts"))?,
            };
            headers.insert(name.to_ascii_lowercase(), values.join(", "));
        }
    }
    Ok(fields.text("HTTP")?.map(|url| HttpTarget {
        url,
        method: method.unwrap_or_else(|| "GET".to_owned()),
        headers,
        body,
    }))
}

/// How to ask over TLS, where that is asked for.
fn tls(fields: &mut Fields, check: &Check) -> Result<Option<TlsTarget>, Failure> {
    let target = TlsTarget {
        server_name: fields.text("TLSServerName")?,
        insecure_skip_verify: fields.flag("TLSSkipVerify")?,
    };
    let (tcp, grpc) = (fields.flag("TCPUseTLS")?, fields.flag("GRPCUseTLS")?);
    let is_tls = check.http.as_ref().is_some_and(HttpTarget::is_https)
        || (tcp && check.tcp.is_some())
        || (grpc && check.grpc.is_some());
    Ok(is_tls.then_some(target))
}

/// `HOST:PORT[/SERVICE]`.
fn grpc(text: &str) -> GrpcTarget {
    let (address, service) = match text.split_once('/') {
        Some((address, service)) => (address, Some(service)),
        None => (text, None),
    };
    GrpcTarget {
        address: address.to_owned(),
        service: service.filter(|it| !it.is_empty()).map(ToOwned::to_owned),
    }
}

/// The word for a status.
pub(super) fn status(text: &str) -> Result<HealthStatus, Failure> {
    match text {
        "passing" => Ok(HealthStatus::Passing),
        "warning" => Ok(HealthStatus::Warning),
        "critical" => Ok(HealthStatus::Critical),
        other => Err(Failure::bad(format!(
            "Status must be passing, warning or critical, not {other:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<Registration, String> {
        let origin = Origin {
            namespace: "default",
            address: "10.0.0.9".parse().ok(),
            locality: None,
        };
        let fields = Fields::of("", body).map_err(|it| it.text)?;
        service(fields, "Name", &origin).map_err(|it| it.text)
    }

    #[test]
    fn a_registration_is_an_endpoint() {
        let read = read(json!({"Name": "Shop_Web", "ID": "Web_1", "port": 8080, "Address": "10.0.0.3",
            "tags": ["blue"], "meta": {"version": "2"}, "weights": {"Passing": 10, "Warning": 0},
            "enableTagOverride": false,
            "checks": [{"http": "http://10.0.0.3:8080/health", "interval": "5s", "header": {"X-A": ["b", "c"]}},
                {"TTL": "10s", "CheckID": "alive", "Status": "passing", "DeregisterCriticalServiceAfter": "1m"}]}))
        .unwrap();
        assert_eq!(read.service, "Shop_Web");
        let spec = &read.endpoint.spec;
        assert_eq!(name::given(&read.endpoint.metadata), "Web_1");
        assert_eq!(
            (spec.port, spec.version.as_deref()),
            (Some(8080), Some("2"))
        );
        let weights = spec.weights.unwrap();
        assert_eq!((weights.passing, weights.warning), (10, Some(0)));
        let [first, second] = spec.checks.as_slice() else {
            panic!("two checks");
        };
        assert_eq!(first.id, "service:Web_1:1");
        assert_eq!(first.http.as_ref().unwrap().headers["x-a"], "b, c");
        assert_eq!(
            (second.id.as_str(), second.initial_status),
            ("alive", HealthStatus::Passing)
        );
    }

    #[test]
    fn without_an_address_it_is_where_it_registers() {
        for body in [
            json!({"Name": "a"}),
            json!({"Name": "a", "Address": "127.0.0.1"}),
        ] {
            let endpoint = read(body).unwrap().endpoint;
            assert_eq!(endpoint.spec.address.to_string(), "10.0.0.9");
        }
    }

    #[test]
    fn one_check_has_the_id_of_its_service() {
        let read = read(json!({"Name": "shop", "ID": "shop-1", "Check": {"TTL": "10s"}})).unwrap();
        assert_eq!(read.endpoint.spec.checks[0].id, "service:shop-1");
        assert_eq!(read.endpoint.spec.checks[0].title(), "Service 'shop' check");
    }

    #[test]
    fn tls_is_for_checks_that_ask_for_it() {
        let tls = |mut check: Value| {
            check["Interval"] = json!("5s");
            let mut spec = read(json!({"Name": "a", "Check": check}))
                .unwrap()
                .endpoint
                .spec;
            spec.checks.remove(0).tls
        };
        let plain = Some(TlsTarget::default());
        assert_eq!(tls(json!({"HTTP": "HTTPS://a/"})), plain);
        assert_eq!(tls(json!({"TCP": "a:1", "TCPUseTLS": true})), plain);
        let named = TlsTarget {
            server_name: Some("web".to_owned()),
            insecure_skip_verify: true,
        };
        let grpc = json!({"GRPC": "a:1", "GRPCUseTLS": true, "TLSSkipVerify": true, "TLSServerName": "web"});
        assert_eq!(tls(grpc), Some(named));
        assert_eq!(
            tls(json!({"HTTP": "http://a/", "TLSSkipVerify": true})),
            None
        );
        assert_eq!(tls(json!({"TCP": "a:1", "GRPCUseTLS": true})), None);
    }

    #[test]
    fn what_is_not_done_is_refused() {
        let refused = |body: Value| read(body).unwrap_err();
        assert_eq!(refused(json!({})), "Missing service name");
        let long = "é".repeat(127);
        assert!(refused(json!({"Name": long})).starts_with("Name is too long"));
        assert!(refused(json!({"Name": "a", "ID": long})).starts_with("ID is too long"));
        assert_eq!(
            refused(json!({"Name": "a", "Connect": {"Native": true}})),
            "Connect is not supported"
        );
        assert_eq!(
            refused(json!({"Name": "a", "Check": {"Args": ["true"], "Interval": "1s"}})),
            "Check.Args is not supported"
        );
        let two = json!({"Name": "a", "Check": {"TTL": "1s", "TCP": "a:1", "Interval": "1s"}});
        assert!(refused(two).starts_with("a check has exactly one of"));
        let no_interval = json!({"Name": "a", "Check": {"TCP": "a:1"}});
        assert!(refused(no_interval).starts_with("Interval"));
        assert!(refused(json!({"Name": "a", "Address": "db.example"})).contains("IP address"));
        assert_eq!(
            refused(json!({"Name": "a", "Port": 70_000})),
            "Port must be a number"
        );
    }
}

//! Questions: asks, narrows down to a namespace, and shows the answer in the form that was asked for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{Client, checked, path_of, read_value};
use super::error::Error;
use super::{print, table};
use crate::config::cli::{Destination, Explain, Filter, List, Output, Query};
use crate::state::Manifest;
use crate::state::object::{Kind, ObjectKey};
use crate::state::report::{
    BpfReport, BreakerList, ConnectionList, CoverageList, Explanation, Status,
};
use crate::state::resource::{Resource as _, with_kind};
use crate::state::service::Service;

pub(super) async fn status(query: &Query) -> Result<(), Error> {
    let value = ask(query, "/api/v1/status").await?;
    show::<Status>(value, query.output, table::status)
}

pub(super) async fn bpf(query: &Query) -> Result<(), Error> {
    let value = ask(query, "/api/v1/bpf").await?;
    show::<BpfReport>(value, query.output, table::bpf)
}

pub(super) async fn services(list: &List) -> Result<(), Error> {
    objects(list, Kind::Service, table::services).await
}

pub(super) async fn endpoints(list: &List) -> Result<(), Error> {
    objects(list, Kind::Endpoint, table::endpoints).await
}

pub(super) async fn workloads(list: &List) -> Result<(), Error> {
    objects(list, Kind::Workload, table::workloads).await
}

pub(super) async fn policies(list: &List) -> Result<(), Error> {
    let kinds = [Kind::AuthorizationPolicy, Kind::TrafficPolicy];
    several(list, &kinds, "policy", table::all_policies).await
}

pub(super) async fn routes(list: &List) -> Result<(), Error> {
    let kinds = [
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TcpRoute,
        Kind::TlsRoute,
    ];
    several(list, &kinds, "route", table::routes).await
}

pub(super) async fn connections(filter: &Filter) -> Result<(), Error> {
    let mut value = ask(&filter.query, "/api/v1/connections").await?;
    if let Some(namespace) = &filter.namespace {
        let prefix = format!("{}/", checked(namespace)?);
        let starts = |part: Option<&Value>| {
            part.and_then(Value::as_str)
                .is_some_and(|text| text.starts_with(&prefix))
        };
        keep(&mut value, |item| {
            starts(item.pointer("/source/workload")) || starts(item.get("service"))
        });
    }
    show::<ConnectionList>(value, filter.query.output, table::connections)
}

pub(super) async fn coverage(filter: &Filter) -> Result<(), Error> {
    let value = of_namespace(filter, "/api/v1/coverage").await?;
    show::<CoverageList>(value, filter.query.output, table::coverage)
}

pub(super) async fn breakers(filter: &Filter) -> Result<(), Error> {
    let value = of_namespace(filter, "/api/v1/breakers").await?;
    show::<BreakerList>(value, filter.query.output, table::breakers)
}

/// A list, narrowed down to the items of a namespace.
async fn of_namespace(filter: &Filter, path: &str) -> Result<Value, Error> {
    let mut value = ask(&filter.query, path).await?;
    if let Some(namespace) = &filter.namespace {
        keep(&mut value, |item| {
            item.get("namespace").and_then(Value::as_str) == Some(namespace)
        });
    }
    Ok(value)
}

pub(super) async fn explain(explain: &Explain) -> Result<(), Error> {
    let (namespace, _) = source_parts(&explain.source);
    let (destination, host) = match &explain.destination {
        Destination::Address(address) => (*address, None),
        Destination::Service {
            namespace: named,
            name,
            port,
        } => {
            let key = ObjectKey::new(named.as_deref().unwrap_or(namespace), name);
            let host = format!("{}.{}.mesh:{port}", key.name, key.namespace);
            let address = address_of(&explain.query, key).await?;
            (SocketAddr::new(address, *port), Some(host))
        }
    };
    let path = explain_question(explain, destination, host)?;
    let value = ask(&explain.query, &path).await?;
    show::<Explanation>(value, explain.query.output, table::explanation)
}

pub(super) fn version(output: Output, version: &str, rustc: &str) -> Result<(), Error> {
    let text = match output {
        Output::Table => format!("mesh-agent {version} (rustc {rustc})"),
        Output::Json | Output::Yaml => {
            structured(&json!({"version": version, "rustc": rustc}), output)?
        }
    };
    print(&text)
}

/// A value as JSON or YAML.
pub(super) fn structured(value: &impl Serialize, output: Output) -> Result<String, Error> {
    match output {
        Output::Yaml => Ok(serde_saphyr::to_string(value)?),
        Output::Json | Output::Table => {
            serde_json::to_string_pretty(value).map_err(|source| Error::Answer {
                path: "itself".to_owned(),
                source,
            })
        }
    }
}

async fn ask(query: &Query, path: &str) -> Result<Value, Error> {
    Client::new(&query.target)?.get(path).await
}

/// The address by which a service is dialled, the first where it has several.
async fn address_of(query: &Query, key: ObjectKey) -> Result<IpAddr, Error> {
    let plural = Kind::Service.plural();
    let path = path_of(plural, Some(&key.namespace), Some(&key.name))?;
    let service: Service = read_value(&path, ask(query, &path).await?)?;
    let address = service.virtual_addresses().first().copied();
    address.ok_or(Error::NoAddress(key))
}

/// Shows a list of objects, or one.
async fn objects<T: DeserializeOwned>(
    list: &List,
    kind: Kind,
    rows: impl FnOnce(&[T]) -> String,
) -> Result<(), Error> {
    let path = path_of(kind.plural(), list.filter.namespace.as_deref(), None)?;
    let output = list.filter.query.output;
    let (mut value, is_one) = match &list.name {
        None => (ask(&list.filter.query, &path).await?, false),
        Some(name) => {
            let mut found = named(list, name, &[kind], kind.name()).await?;
            (found.pop().unwrap_or_default(), true)
        }
    };
    if output != Output::Table {
        return print(&structured(&value, output)?);
    }
    let items = if is_one {
        Value::Array(vec![value])
    } else {
        value.get_mut("items").map(Value::take).unwrap_or_default()
    };
    let items: Vec<T> = read_value(&path, items)?;
    print(&rows(&items))
}

/// The objects of these kinds that have the name: of the namespace that is asked for, else of the one that has it.
async fn named(
    list: &List,
    name: &str,
    kinds: &[Kind],
    what: &'static str,
) -> Result<Vec<Value>, Error> {
    let name = checked(name)?;
    let namespace = list.filter.namespace.as_deref();
    let mut found = Vec::new();
    if namespace.is_some() {
        for kind in kinds {
            let path = path_of(kind.plural(), namespace, Some(name))?;
            match ask(&list.filter.query, &path).await {
                Ok(object) => found.push(object),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    } else {
        found = all(list, kinds).await?;
        found.retain(|item| text_at(item, "/metadata/name") == Some(name));
    }
    one_namespace(found, namespace, name, what)
}

/// What was found under a name, if it is there and one namespace has it.
fn one_namespace(
    found: Vec<Value>,
    asked: Option<&str>,
    name: &str,
    what: &'static str,
) -> Result<Vec<Value>, Error> {
    let namespaces = found.iter();
    let namespaces = namespaces.filter_map(|item| text_at(item, "/metadata/namespace"));
    let namespaces: BTreeSet<&str> = namespaces.collect();
    if found.is_empty() {
        let name = match asked {
            Some(namespace) => format!("{namespace}/{name}"),
            None => format!("{name} in any namespace"),
        };
        return Err(Error::NoObject { what, name });
    }
    if namespaces.len() > 1 {
        return Err(Error::Ambiguous {
            what,
            name: name.to_owned(),
            namespaces: Vec::from_iter(namespaces).join(", "),
        });
    }
    Ok(found)
}

/// The objects of several kinds.
async fn all(list: &List, kinds: &[Kind]) -> Result<Vec<Value>, Error> {
    let mut items = Vec::new();
    for kind in kinds {
        let path = path_of(kind.plural(), list.filter.namespace.as_deref(), None)?;
        let mut value = ask(&list.filter.query, &path).await?;
        if let Some(Value::Array(found)) = value.get_mut("items") {
            items.append(found);
        }
    }
    Ok(items)
}

fn text_at<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// Shows the objects of several kinds, or all that have one name: a list in any case but that of a single one.
async fn several(
    list: &List,
    kinds: &[Kind],
    what: &'static str,
    rows: impl FnOnce(&[Manifest]) -> String,
) -> Result<(), Error> {
    let query = &list.filter.query;
    let mut items = match &list.name {
        Some(name) => named(list, name, kinds, what).await?,
        None => all(list, kinds).await?,
    };
    let is_one = list.name.is_some() && items.len() == 1;
    if query.output == Output::Table {
        let items: Result<Vec<Manifest>, Error> = items.into_iter().map(manifest).collect();
        return print(&rows(&items?));
    }
    let value = match items.pop() {
        Some(value) if is_one => value,
        last => {
            items.extend(last);
            json!({ "items": items })
        }
    };
    print(&structured(&value, query.output)?)
}

/// An object of whatever kind it says it is.
pub(super) fn manifest(value: Value) -> Result<Manifest, Error> {
    let kind = value.get("kind").cloned().unwrap_or_default();
    let kind: Kind = read_value("the question", kind)?;
    with_kind!(kind, R => {
        let object: R = read_value("the question", value)?;
        Ok(R::into_manifest(Arc::new(object)))
    })
}

fn show<T: DeserializeOwned>(
    value: Value,
    output: Output,
    rows: impl FnOnce(&T) -> String,
) -> Result<(), Error> {
    let text = match output {
        // What this version does not know is shown all the same.
        Output::Json | Output::Yaml => structured(&value, output)?,
        Output::Table => rows(&read_value("the question", value)?),
    };
    print(&text)
}

fn keep(list: &mut Value, mut is_wanted: impl FnMut(&Value) -> bool) {
    if let Some(Value::Array(items)) = list.get_mut("items") {
        items.retain(|item| is_wanted(item));
    }
}

/// Namespace and name of a workload.
fn source_parts(source: &str) -> (&str, &str) {
    source.split_once('/').unwrap_or(("default", source))
}

/// The question about a connection to `destination`, and about a request if one is described: one to `host`, unless a header
/// says otherwise.
fn explain_question(
    explain: &Explain,
    destination: SocketAddr,
    host: Option<String>,
) -> Result<String, Error> {
    let mut path = explain_path(&explain.source, &destination.to_string())?;
    if explain.udp {
        path.push_str("&transport=udp");
    }
    let parts = [("method", &explain.method), ("path", &explain.path)];
    let parts = parts
        .into_iter()
        .filter_map(|(name, part)| Some((name, part.as_deref()?)));
    let headers = explain.headers.iter().map(|it| ("header", it.as_str()));
    let parts: Vec<_> = parts.chain(headers).collect();
    let names_host = |header: &String| {
        let name = header.split(':').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case("host")
    };
    let is_told = explain.headers.iter().any(names_host);
    let host = host.filter(|_| !parts.is_empty() && !is_told);
    let host = host.map(|host| format!("host:{host}"));
    for (name, part) in parts
        .into_iter()
        .chain(host.as_deref().map(|it| ("header", it)))
    {
        path.extend(["&", name, "=", &encoded(part)]);
    }
    Ok(path)
}

fn explain_path(source: &str, destination: &str) -> Result<String, Error> {
    let (namespace, name) = source_parts(source);
    let source = format!("{}/{}", checked(namespace)?, checked(name)?);
    // Of what an address is written with, only the brackets are not allowed in a query.
    let destination = destination.replace('[', "%5B").replace(']', "%5D");
    Ok(format!(
        "/api/v1/explain?source={source}&destination={destination}"
    ))
}

/// A text as it may stand in a query (RFC 3986, 2.1).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
            let digits = [digit(byte >> 4), digit(byte & 15)];
            encoded.push('%');
            encoded.extend(digits.map(|digit| digit.to_ascii_uppercase()));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Exit;
    use crate::config::cli;

    #[test]
    fn explain_asks_for_workload_and_address() {
        check(
            "shop/client",
            "10.0.0.1:80",
            "source=shop/client&destination=10.0.0.1:80",
        );
        check(
            "client",
            "[::1]:80",
            "source=default/client&destination=%5B::1%5D:80",
        );
        assert!(explain_path("shop/client&x=y", "10.0.0.1:80").is_err());
    }

    #[test]
    fn a_request_is_to_the_name_that_was_given() {
        let asked = |words: &str, host: Option<&str>| {
            let words = format!("mesh-agent explain shop/client web:80 {words}");
            let parsed = cli::Cli::from_words(words.split_whitespace()).expect("it is right");
            let cli::Command::Explain(explain) = parsed.command else {
                panic!("{words}");
            };
            let destination = SocketAddr::from(([10, 0, 0, 1], 80));
            let host = host.map(str::to_owned);
            let path = explain_question(&explain, destination, host).expect("it is right");
            let (_, rest) = path.split_once(":80").expect("the destination");
            rest.to_owned()
        };
        let host = Some("web.shop.mesh:80");
        assert_eq!(
            asked("--path /", host),
            "&path=/&header=host:web.shop.mesh:80"
        );
        assert_eq!(
            asked("--header x-a:1", host),
            "&header=x-a:1&header=host:web.shop.mesh:80"
        );
        assert_eq!(
            asked("--path / --header Host:other", host),
            "&path=/&header=Host:other"
        );
        assert_eq!(asked("--path /", None), "&path=/");
        assert_eq!(asked("", host), "", "no request is asked about");
    }

    #[test]
    fn name_is_found_where_one_namespace_has_it() {
        let of = |namespace: &str| json!({"metadata": {"name": "web", "namespace": namespace}});
        let search = |found: Vec<Value>, asked| one_namespace(found, asked, "web", "route");
        // Two kinds may have the name.
        let found = search(vec![of("shop"), of("shop")], None).expect("it is there");
        assert_eq!(found.len(), 2);
        let several = search(vec![of("shop"), of("data")], None).unwrap_err();
        assert_eq!(
            several.to_string(),
            "route web is in several namespaces, data, shop: say which with -n"
        );
        let none = search(Vec::new(), Some("shop")).unwrap_err();
        assert_eq!(none.to_string(), "no route shop/web");
        assert_eq!(none.exit(), Exit::NO_INPUT);
        let none = search(Vec::new(), None).unwrap_err();
        assert_eq!(none.to_string(), "no route web in any namespace");
    }

    #[test]
    fn what_is_asked_about_a_request_survives_the_way() {
        assert_eq!(encoded("/a?b=c&d#e +%"), "/a%3Fb%3Dc%26d%23e%20%2B%25");
        assert_eq!(encoded("x-a: é"), "x-a:%20%C3%A9");
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let value = json!({"items": [{"name": "on", "count": 2}]});
        let yaml = structured(&value, Output::Yaml).expect("it can be written");
        let json = structured(&value, Output::Json).expect("it can be written");
        let from_yaml: Value = serde_saphyr::from_str(&yaml).expect("it is YAML");
        let from_json: Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(from_yaml, value);
        assert_eq!(from_json, value);
    }

    #[test]
    fn a_namespace_narrows_the_list() {
        let mut list = json!({"items": [{"namespace": "a"}, {"namespace": "b"}]});
        keep(&mut list, |item| item["namespace"] == "b");
        assert_eq!(list, json!({"items": [{"namespace": "b"}]}));
    }

    fn check(source: &str, destination: &str, wanted: &str) {
        let path = explain_path(source, destination).expect("it is right");
        assert_eq!(path, format!("/api/v1/explain?{wanted}"));
    }
}

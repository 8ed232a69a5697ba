//! The table against the rules of the Gateway API, and against a slow reference.

mod precedence;
mod random;
mod rules;
mod streams;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::Request;
use super::compiled::CompiledRoute;
use super::table::Table;

/// An HTTP route of the namespace `shop`, made at a second of 2026.
fn http(name: &str, second: u32, spec: &Value) -> Arc<CompiledRoute> {
    let object = object("HTTPRoute", name, second, spec);
    Arc::new(CompiledRoute::http(
        &serde_json::from_value(object).unwrap(),
    ))
}

fn grpc(name: &str, second: u32, spec: &Value) -> Arc<CompiledRoute> {
    let object = object("GRPCRoute", name, second, spec);
    Arc::new(CompiledRoute::grpc(
        &serde_json::from_value(object).unwrap(),
    ))
}

fn object(kind: &str, name: &str, second: u32, spec: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "shop",
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        },
        "spec": spec,
    })
}

/// A request as a test writes it.
#[derive(Clone, Debug)]
struct Ask {
    host: &'static str,
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    is_grpc: bool,
}

impl Ask {
    fn get(target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        Self {
            host: "web",
            method: Method::GET,
            path: path.to_owned(),
            query,
            headers: HeaderMap::new(),
            is_grpc: false,
        }
    }

    fn grpc(path: &str) -> Self {
        Self {
            is_grpc: true,
            method: Method::POST,
            ..Self::get(path)
        }
    }

    fn host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    fn header(mut self, name: &'static str, value: &[u8]) -> Self {
        let value = HeaderValue::from_bytes(value).unwrap();
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    fn request(&self) -> Request<'_> {
        Request {
            host: self.host.split(':').next(),
            authority: Some(self.host),
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
            is_grpc: self.is_grpc,
        }
    }
}

/// What a request falls under, as `ROUTE/RULE`.
fn chosen(table: &Table, ask: &Ask) -> String {
    table.choose(&ask.request()).map_or_else(
        || "none".to_owned(),
        |choice| {
            let label = choice.rule.label.strip_prefix("shop/");
            label.unwrap().to_owned()
        },
    )
}

#[track_caller]
fn check(table: &Table, cases: &[(Ask, &str)]) {
    for (ask, expected) in cases {
        assert_eq!(chosen(table, ask), *expected, "{ask:?}");
    }
}

//! What rules are compiled to.

use super::*;
use crate::state::object::{Kind, ObjectKey};
use crate::state::{Change, Store, decode};

/// What is wrong with a rule that the registry has accepted.
fn problems(kind: Kind, rule: &Value) -> Vec<super::super::compiled::Problem> {
    let spec =
        json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [rule]});
    let key = ObjectKey::new("shop", "r");
    let manifest = decode::manifest(kind, &key, json!({"spec": spec})).unwrap();
    let applied = Store::in_memory().apply(Change::Put(manifest));
    applied.unwrap_or_else(|refusal| panic!("{rule}: {refusal:?}"));
    let route = if kind == Kind::GrpcRoute {
        grpc("r", 0, &spec)
    } else {
        http("r", 0, &spec)
    };
    route.problems.clone()
}

#[test]
fn filters_that_the_registry_accepts_can_be_compiled() {
    let modifier = |value: &str| json!({"set": [{"name": "x", "value": value}], "remove": ["Y"]});
    let full = json!({"type": "ReplaceFullPath", "replaceFullPath": ""});
    let prefix = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": ""});
    let path = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/a;b=%20"});
    let filter =
        |kind: &str, field: &str, spec: &Value| json!({"filters": [{"type": kind, field: spec}]});
    let rewrite = |path: &Value| filter("URLRewrite", "urlRewrite", &json!({"path": path}));
    let redirect = |spec: &Value| filter("RequestRedirect", "requestRedirect", spec);
    for rule in [
        rewrite(&full),
        rewrite(&prefix),
        rewrite(&path),
        redirect(&json!({"path": full, "port": 65535, "statusCode": 308, "scheme": "https"})),
        redirect(&json!({"path": prefix, "hostname": "a-b.c", "statusCode": 303})),
        redirect(&json!({})),
        filter(
            "RequestHeaderModifier",
            "requestHeaderModifier",
            &modifier("é\t~"),
        ),
        filter(
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            &modifier("a"),
        ),
        filter(
            "RequestMirror",
            "requestMirror",
            &json!({"backendRef": {"name": "a", "port": 1}, "percent": 0}),
        ),
        filter(
            "RequestMirror",
            "requestMirror",
            &json!({"backendRef": {"name": "a", "port": 1},
            "fraction": {"numerator": u32::MAX, "denominator": u32::MAX}}),
        ),
        filter(
            "CORS",
            "cors",
            &json!({"allowOrigins": ["https://*.a.b:8080", "http://[::1]"], "allowMethods": ["GET"],
            "allowHeaders": ["*"], "exposeHeaders": ["X-A"], "allowCredentials": true, "maxAge": u32::MAX}),
        ),
        filter("CORS", "cors", &json!({})),
        filter("RequestHeaderModifier", "requestHeaderModifier", &json!({})),
        filter("URLRewrite", "urlRewrite", &json!({})),
        filter(
            "CORS",
            "cors",
            &json!({"allowOrigins": ["HTTPS://A.Example"]}),
        ),
    ] {
        assert_eq!(problems(Kind::HttpRoute, &rule), [], "{rule}");
    }
}

#[test]
fn matches_that_the_registry_accepts_can_be_compiled() {
    let expression = r"\w{1,3}(a|b)*";
    let named = |name: &str| {
        json!([{"name": name, "value": "v"}, {"name": name.to_uppercase(), "value": "w"},
        {"name": "e", "value": expression, "type": "RegularExpression"}])
    };
    let long = format!("/{}", "a".repeat(1023));
    for it in [
        json!({"path": {"type": "Exact", "value": long}, "method": "CONNECT"}),
        json!({"path": {"value": "/%20/~;a=b"}, "headers": named("host"), "queryParams": named("host")}),
        json!({"path": {"type": "RegularExpression", "value": expression}}),
    ] {
        let rule = json!({"matches": [it]});
        assert_eq!(problems(Kind::HttpRoute, &rule), [], "{rule}");
    }
    for method in [
        json!({"type": "RegularExpression", "service": expression, "method": expression}),
        json!({"type": "RegularExpression", "service": "", "method": expression}),
        json!({"service": ".a.B_1", "method": "_c"}),
    ] {
        let rule = json!({"matches": [{"method": method, "headers": named("x")}]});
        assert_eq!(problems(Kind::GrpcRoute, &rule), [], "{rule}");
    }
}

/// The cookie by which the rules of a route keep their sessions.
fn cookies(route: &CompiledRoute) -> Vec<String> {
    let sessions = route.rules.iter().map(|rule| {
        let session = rule.session.as_ref().unwrap();
        let (_, cookie) = session.answer(None, 1, 1, "/").unwrap();
        let (name, _) = cookie.to_str().unwrap().split_once('=').unwrap();
        name.to_owned()
    });
    sessions.collect()
}

#[test]
fn no_two_rules_share_a_session_unless_they_say_so() {
    let rule = json!({"sessionPersistence": {}});
    let spec = json!({"rules": [rule, rule, {"name": "n", "sessionPersistence": {}}]});
    let mut elsewhere = object("HTTPRoute", "r", 0, &spec);
    elsewhere["metadata"]["namespace"] = json!("other");
    let elsewhere = CompiledRoute::http(&serde_json::from_value(elsewhere).unwrap());
    let routes = [
        http("r", 0, &spec),
        grpc("r", 0, &spec),
        Arc::new(elsewhere),
    ];
    let all: Vec<_> = routes.iter().flat_map(|route| cookies(route)).collect();
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), 9, "{all:?}");
    assert!(all.iter().all(|name| name.starts_with("mesh-session-")));
    assert_eq!(cookies(&routes[0]), cookies(&http("r", 9, &spec)));
    let named = json!({"sessionPersistence": {"sessionName": "sid"}});
    let spec = json!({"rules": [named, named]});
    assert_eq!(cookies(&http("r", 0, &spec)), ["sid", "sid"]);
}

//! Routes of the Gateway API.

use super::*;

const HTTP: Kind = Kind::HttpRoute;
const GRPC: Kind = Kind::GrpcRoute;

fn parent() -> Value {
    json!({"group": "", "kind": "Service", "name": "web"})
}

fn route(rules: Value) -> Value {
    json!({"parentRefs": [parent()], "rules": rules})
}

fn backend() -> Value {
    json!({"name": "web", "port": 80})
}

/// A route with one rule that has `name: value` too.
fn rule(name: &str, value: Value) -> Value {
    let mut rule = json!({"backendRefs": [backend()]});
    rule[name] = value;
    route(json!([rule]))
}

fn matching(it: Value) -> Value {
    rule("matches", json!([it]))
}

fn filtering(filters: Value) -> Value {
    rule("filters", filters)
}

fn times<T: Clone>(item: T, count: usize) -> Vec<T> {
    vec![item; count]
}

#[test]
fn parents_are_named_once_and_as_kubernetes_names() {
    let with =
        |parents: Value| json!({"parentRefs": parents, "rules": [{"backendRefs": [backend()]}]});
    let field = "spec.parentRefs[0]";
    for kind in [HTTP, GRPC, Kind::TcpRoute, Kind::TlsRoute] {
        refused(kind, with(json!([])), "spec.parentRefs");
        refused(
            kind,
            with(json!([{"name": "No"}])),
            &format!("{field}.name"),
        );
        accepted(kind, with(json!([{"name": "gateway"}, parent()])));
    }
    refused(HTTP, with(json!(times(parent(), 33))), "spec.parentRefs");
    refused(
        HTTP,
        with(json!([{"name": "a", "kind": "9"}])),
        &format!("{field}.kind"),
    );
    refused(
        HTTP,
        with(json!([{"name": "a", "group": "A"}])),
        &format!("{field}.group"),
    );
    refused(
        HTTP,
        with(json!([{"name": "a", "namespace": "A"}])),
        &format!("{field}.namespace"),
    );
    refused(
        HTTP,
        with(json!([{"name": "a", "sectionName": ""}])),
        &format!("{field}.sectionName"),
    );
    refused(
        HTTP,
        with(json!([{"name": "a", "port": 0}])),
        &format!("{field}.port"),
    );
    let at = |port: u16| json!({"group": "", "kind": "Service", "name": "web", "port": port});
    accepted(HTTP, with(json!([at(80), at(81)])));
    refused(HTTP, with(json!([at(80), at(80)])), "spec.parentRefs[1]");
    refused(HTTP, with(json!([at(80), parent()])), "spec.parentRefs[1]");
}

#[test]
fn backends_of_other_kinds_are_for_the_status_to_tell() {
    let to = |backend: Value| route(json!([{"backendRefs": [backend]}]));
    let bucket = json!({"group": "example.com", "kind": "Bucket", "name": "b"});
    for kind in [HTTP, GRPC, Kind::TcpRoute, Kind::TlsRoute] {
        accepted(kind, to(bucket.clone()));
        refused(
            kind,
            to(json!({"name": "b"})),
            "spec.rules[0].backendRefs[0].port",
        );
    }
    let mirror = json!([{"type": "RequestMirror", "requestMirror": {"backendRef": bucket}}]);
    accepted(HTTP, filtering(mirror));
}

#[test]
fn routes_of_streams_come_in_old_and_new_versions() {
    for kind in [Kind::TcpRoute, Kind::TlsRoute] {
        for version in ["v1", "v1alpha2"] {
            let version = format!("gateway.networking.k8s.io/{version}");
            let spec = route(json!([{"backendRefs": [backend()]}]));
            let document = json!({"apiVersion": version, "spec": spec});
            let read = decode::manifest(kind, &ObjectKey::new("shop", "r"), document);
            assert!(read.is_ok(), "{kind} {version}: {read:?}");
        }
    }
}

#[test]
fn hostnames_are_names_with_one_wildcard_in_front() {
    for kind in [HTTP, GRPC, Kind::TlsRoute] {
        let with = |names: Value| {
            let mut spec = route(json!([{"backendRefs": [backend()]}]));
            spec["hostnames"] = names;
            spec
        };
        accepted(kind, with(json!(["example.com", "*.example.com", "a"])));
        for wrong in [
            "",
            "*",
            "a.*.b",
            "*a.b",
            "Example.com",
            "10.0.0.1",
            "a.b:80",
            "a..b",
        ] {
            refused(kind, with(json!(["a.b", wrong])), "spec.hostnames[1]");
        }
        let most = if kind == Kind::TlsRoute { 1024 } else { 16 };
        let many: Vec<_> = (0..=most).map(|it| format!("h{it}")).collect();
        accepted(kind, with(json!(many[1..])));
        refused(kind, with(json!(many)), "spec.hostnames");
    }
}

#[test]
fn paths_are_as_they_are_after_normalisation() {
    let path = |kind: &str, value: &str| matching(json!({"path": {"type": kind, "value": value}}));
    let field = "spec.rules[0].matches[0].path.value";
    for kind in ["Exact", "PathPrefix"] {
        for right in [
            "/",
            "/a/b",
            "/a/",
            "/%20a",
            "/a.b/..c",
            "/a%2eb",
            "/caf%c3%a9",
            "/a;b=c,d@e:f!$&'()*+~",
        ] {
            accepted(HTTP, path(kind, right));
        }
        for wrong in [
            "",
            "a",
            "//",
            "/a//b",
            "/a/./b",
            "/a/../b",
            "/a%2fb",
            "/a%2Fb",
            "/a#b",
            "/a?b",
            "/a/..",
            "/a/.",
            "/a/%2e%2E/b",
            "/a/%2E",
            "/ä",
            "/%",
            "/%2",
            "/%zz",
            "/a b",
            "/a\u{0}",
        ] {
            refused(HTTP, path(kind, wrong), field);
        }
        refused(HTTP, path(kind, &format!("/{}", "a".repeat(1024))), field);
    }
    accepted(HTTP, path("RegularExpression", "/v[0-9]+/.*"));
    for wrong in ["(", "a)(b", "", "a{1000}{1000}"] {
        refused(HTTP, path("RegularExpression", wrong), field);
    }
}

#[test]
fn matches_have_known_methods_and_each_name_once() {
    let at = "spec.rules[0].matches[0]";
    accepted(HTTP, matching(json!({"method": "PATCH"})));
    refused(
        HTTP,
        matching(json!({"method": "get"})),
        &format!("{at}.method"),
    );
    let header = |name: &str, value: &str| json!({"name": name, "value": value});
    let headers = |headers: Value| matching(json!({ "headers": headers }));
    accepted(HTTP, headers(json!([header("a", "1"), header("b", "1")])));
    accepted(HTTP, headers(json!([header("a", "1"), header("A", "2")])));
    refused(
        HTTP,
        headers(json!([header("a", "1"), header("a", "2")])),
        &format!("{at}.headers[1].name"),
    );
    refused(
        HTTP,
        headers(json!([header("a b", "1")])),
        &format!("{at}.headers[0].name"),
    );
    refused(
        HTTP,
        headers(json!([header("", "1")])),
        &format!("{at}.headers[0].name"),
    );
    refused(
        HTTP,
        headers(json!([header("a", "")])),
        &format!("{at}.headers[0].value"),
    );
    let long = "v".repeat(4097);
    refused(
        HTTP,
        headers(json!([header("a", &long)])),
        &format!("{at}.headers[0].value"),
    );
    let regular = json!([{"name": "a", "type": "RegularExpression", "value": "["}]);
    refused(
        HTTP,
        headers(regular.clone()),
        &format!("{at}.headers[0].value"),
    );
    refused(
        HTTP,
        matching(json!({"queryParams": regular})),
        &format!("{at}.queryParams[0].value"),
    );
    accepted(
        HTTP,
        matching(json!({"queryParams": [header("a", "1"), header("A", "1")]})),
    );
    let twice = matching(json!({"queryParams": [header("a", "1"), header("a", "2")]}));
    refused(HTTP, twice, &format!("{at}.queryParams[1].name"));
    let many: Vec<_> = (0..17).map(|it| header(&format!("h{it}"), "1")).collect();
    refused(HTTP, headers(json!(many)), &format!("{at}.headers"));
}

#[test]
fn counts_are_those_of_the_gateway_api() {
    let plain = json!({"backendRefs": [backend()]});
    accepted(HTTP, route(json!(times(plain.clone(), 16))));
    refused(HTTP, route(json!(times(plain, 17))), "spec.rules");
    refused(HTTP, route(json!([])), "spec.rules");
    let one = json!({"path": {"value": "/a"}});
    refused(
        HTTP,
        rule("matches", json!(times(one.clone(), 65))),
        "spec.rules[0].matches",
    );
    let rules = times(json!({"matches": times(one, 43)}), 3);
    refused(HTTP, route(json!(rules)), "spec.rules[2].matches");
    refused(
        HTTP,
        rule("backendRefs", json!(times(backend(), 17))),
        "spec.rules[0].backendRefs",
    );
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend()}});
    accepted(HTTP, filtering(json!(times(mirror.clone(), 16))));
    refused(
        HTTP,
        filtering(json!(times(mirror, 17))),
        "spec.rules[0].filters",
    );
    let named = |name: &str| json!({"name": name, "backendRefs": [backend()]});
    accepted(HTTP, route(json!([named("a"), named("b")])));
    refused(
        HTTP,
        route(json!([named("a"), named("a")])),
        "spec.rules[1].name",
    );
    refused(HTTP, route(json!([named("A")])), "spec.rules[0].name");
}

#[test]
fn backends_are_services_with_a_port_and_a_weight() {
    for kind in [HTTP, GRPC, Kind::TcpRoute, Kind::TlsRoute] {
        let with = |name: &str, value: Value| {
            let mut backend = backend();
            backend[name] = value;
            route(json!([{ "backendRefs": [backend] }]))
        };
        let field = |name: &str| format!("spec.rules[0].backendRefs[0].{name}");
        accepted(kind, with("weight", json!(1_000_000)));
        accepted(kind, with("weight", json!(0)));
        refused(kind, with("weight", json!(1_000_001)), &field("weight"));
        refused(kind, with("port", Value::Null), &field("port"));
        refused(kind, with("port", json!(0)), &field("port"));
        refused(kind, with("name", json!("A")), &field("name"));
        refused(kind, with("namespace", json!("A")), &field("namespace"));
        refused(kind, with("kind", json!("9")), &field("kind"));
        accepted(kind, with("kind", json!("Secret")));
        accepted(kind, with("group", json!("a.b")));
    }
    for kind in [Kind::TcpRoute, Kind::TlsRoute] {
        refused(kind, route(json!([{}])), "spec.rules[0].backendRefs");
        refused(kind, route(json!([])), "spec.rules");
        let rules = times(json!({"backendRefs": [backend()]}), 2);
        refused(kind, route(json!(rules)), "spec.rules");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn filters_have_the_field_of_their_type_and_are_used_once() {
    let at = "spec.rules[0].filters[0]";
    let modify =
        |part: Value| json!({"type": "RequestHeaderModifier", "requestHeaderModifier": part});
    let set = |name: &str, value: &str| modify(json!({"set": [{"name": name, "value": value}]}));
    accepted(HTTP, filtering(json!([set("x-a", "b")])));
    refused(
        HTTP,
        filtering(json!([{"type": "CORS"}])),
        &format!("{at}.cors"),
    );
    let mut two = set("x-a", "b");
    two["cors"] = json!({});
    refused(HTTP, filtering(json!([two])), &format!("{at}.cors"));
    refused(
        HTTP,
        filtering(json!([set("x-a", "b"), set("x-b", "b")])),
        "spec.rules[0].filters[1].type",
    );

    let field = format!("{at}.requestHeaderModifier");
    accepted(HTTP, filtering(json!([modify(json!({}))])));
    for wrong in [
        "",
        "a b",
        "a:",
        "Host",
        "content-length",
        "Transfer-Encoding",
        ":path",
    ] {
        refused(
            HTTP,
            filtering(json!([set(wrong, "b")])),
            &format!("{field}.set[0].name"),
        );
        let remove = modify(json!({"remove": ["x-a", wrong]}));
        refused(
            HTTP,
            filtering(json!([remove])),
            &format!("{field}.remove[1]"),
        );
    }
    for wrong in ["", "a\r\nb: c", "a\u{0}", " a", "a\t"] {
        refused(
            HTTP,
            filtering(json!([set("x-a", wrong)])),
            &format!("{field}.set[0].value"),
        );
    }
    let twice = modify(json!({"add": [{"name": "a", "value": "1"}, {"name": "A", "value": "2"}]}));
    refused(
        HTTP,
        filtering(json!([twice])),
        &format!("{field}.add[1].name"),
    );
    let one = json!([{"name": "x-a", "value": "1"}]);
    for (first, second, place) in [
        (
            "set",
            json!({"add": [{"name": "X-A", "value": "1"}]}),
            "add[0].name",
        ),
        ("set", json!({"remove": ["x-b", "X-A"]}), "remove[1]"),
        ("add", json!({"remove": ["X-A"]}), "remove[0]"),
    ] {
        let mut both = second;
        both[first] = one.clone();
        let both = filtering(json!([modify(both)]));
        refused(HTTP, both, &format!("{field}.{place}"));
    }

    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"port": 81}});
    let rewrite = json!({"type": "URLRewrite", "urlRewrite": {"hostname": "a.b"}});
    accepted(HTTP, route(json!([{ "filters": [redirect] }])));
    refused(
        HTTP,
        filtering(json!([redirect])),
        "spec.rules[0].backendRefs",
    );
    refused(
        HTTP,
        filtering(json!([rewrite, redirect])),
        "spec.rules[0].filters[1].type",
    );
    let at = "spec.rules[0].filters[0].type";
    for filter in [redirect, rewrite, json!({"type": "CORS", "cors": {}})] {
        refused(GRPC, filtering(json!([filter])), at);
    }
    accepted(GRPC, filtering(json!([set("x-a", "b")])));
    let of_backend = json!([{"name": "web", "port": 80, "filters": [{"type": "URLRewrite"}]}]);
    let field = "spec.rules[0].backendRefs[0].filters[0].urlRewrite";
    refused(HTTP, rule("backendRefs", of_backend), field);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn redirects_and_rewrites_lead_somewhere() {
    let redirect = |it: Value| {
        route(json!([{"filters": [{"type": "RequestRedirect", "requestRedirect": it}]}]))
    };
    let at = "spec.rules[0].filters[0].requestRedirect";
    accepted(HTTP, redirect(json!({})));
    for status in [301, 302, 303, 307, 308] {
        accepted(
            HTTP,
            redirect(json!({"statusCode": status, "scheme": "https"})),
        );
    }
    refused(
        HTTP,
        redirect(json!({"statusCode": 304})),
        &format!("{at}.statusCode"),
    );
    refused(
        HTTP,
        redirect(json!({"scheme": "ftp"})),
        &format!("{at}.scheme"),
    );
    refused(
        HTTP,
        redirect(json!({"hostname": "*.a"})),
        &format!("{at}.hostname"),
    );
    refused(HTTP, redirect(json!({"port": 0})), &format!("{at}.port"));

    let path = |kind: &str, name: &str, value: Value| {
        let mut path = json!({ "type": kind });
        path[name] = value;
        path
    };
    let rewrite = |matches: Value, path: Value| {
        let filter = json!({"type": "URLRewrite", "urlRewrite": {"path": path}});
        route(json!([{"matches": matches, "filters": [filter], "backendRefs": [backend()]}]))
    };
    let at = "spec.rules[0].filters[0].urlRewrite";
    let full = |value: &str| path("ReplaceFullPath", "replaceFullPath", json!(value));
    let prefix = |value: &str| path("ReplacePrefixMatch", "replacePrefixMatch", json!(value));
    let one_prefix = json!([{"path": {"type": "PathPrefix", "value": "/a"}}]);
    accepted(HTTP, rewrite(one_prefix.clone(), prefix("/b")));
    accepted(HTTP, rewrite(one_prefix.clone(), prefix("")));
    accepted(HTTP, rewrite(json!([]), prefix("/b")));
    accepted(HTTP, rewrite(json!([{"method": "GET"}]), prefix("/b")));
    for matches in [
        json!([{"path": {"type": "Exact", "value": "/a"}}]),
        json!([{"path": {"value": "/a"}}, {"path": {"value": "/b"}}]),
    ] {
        refused(
            HTTP,
            rewrite(matches.clone(), prefix("/b")),
            &format!("{at}.path.replacePrefixMatch"),
        );
        accepted(HTTP, rewrite(matches, full("/b")));
    }
    for wrong in ["b", "/b?c", "/b\r\n", "/b c", "/b#c"] {
        refused(
            HTTP,
            rewrite(one_prefix.clone(), full(wrong)),
            &format!("{at}.path.replaceFullPath"),
        );
    }
    let none = json!({"type": "ReplaceFullPath"});
    refused(
        HTTP,
        rewrite(json!([]), none),
        &format!("{at}.path.replaceFullPath"),
    );
    let other = path("ReplaceFullPath", "replacePrefixMatch", json!("/b"));
    refused(
        HTTP,
        rewrite(json!([]), other),
        &format!("{at}.path.replacePrefixMatch"),
    );
    let nothing = json!([{"type": "URLRewrite", "urlRewrite": {}}]);
    accepted(HTTP, filtering(nothing));
}

#[test]
fn mirrors_take_a_share_of_all() {
    let mirror = |name: &str, value: Value| {
        let mut mirror = json!({ "backendRef": backend() });
        mirror[name] = value;
        filtering(json!([{"type": "RequestMirror", "requestMirror": mirror}]))
    };
    let at = "spec.rules[0].filters[0].requestMirror";
    accepted(HTTP, mirror("percent", json!(100)));
    refused(
        HTTP,
        mirror("percent", json!(101)),
        &format!("{at}.percent"),
    );
    accepted(
        HTTP,
        mirror("fraction", json!({"numerator": 1, "denominator": 1000})),
    );
    refused(
        HTTP,
        mirror("fraction", json!({"numerator": 101})),
        &format!("{at}.fraction.numerator"),
    );
    let zero = json!({"numerator": 0, "denominator": 0});
    refused(
        HTTP,
        mirror("fraction", zero),
        &format!("{at}.fraction.denominator"),
    );
    refused(
        HTTP,
        mirror("backendRef", json!({"name": "a"})),
        &format!("{at}.backendRef.port"),
    );
    let both = json!([{"type": "RequestMirror", "requestMirror":
        {"backendRef": backend(), "percent": 1, "fraction": {"numerator": 1}}}]);
    refused(HTTP, filtering(both), &format!("{at}.fraction"));
}

#[test]
fn cors_lists_origins_methods_and_headers() {
    let with = |name: &str, value: Value| {
        let mut cors = json!({});
        cors[name] = value;
        filtering(json!([{"type": "CORS", "cors": cors}]))
    };
    let at = |name: &str| format!("spec.rules[0].filters[0].cors.{name}");
    let right = [
        "https://a.example",
        "http://a:8080",
        "https://*.a.b",
        "http://10.0.0.1",
        "http://[::1]:80",
        "https://B.Example",
    ];
    accepted(HTTP, with("allowOrigins", json!(right)));
    accepted(HTTP, with("allowOrigins", json!(["*"])));
    for wrong in [
        "",
        "a.example",
        "https://",
        "https://a/b",
        "https://a:0",
        "https://a b",
        "h://a",
    ] {
        refused(
            HTTP,
            with("allowOrigins", json!([wrong])),
            &at("allowOrigins[0]"),
        );
    }
    refused(
        HTTP,
        with("allowOrigins", json!(["http://a", "*"])),
        &at("allowOrigins[1]"),
    );
    refused(
        HTTP,
        with("allowOrigins", json!(["http://a", "http://a"])),
        &at("allowOrigins[1]"),
    );
    refused(
        HTTP,
        with("allowMethods", json!(["get"])),
        &at("allowMethods[0]"),
    );
    refused(
        HTTP,
        with("allowHeaders", json!(["a b"])),
        &at("allowHeaders[0]"),
    );
    refused(
        HTTP,
        with("exposeHeaders", json!(["*", "a"])),
        &at("exposeHeaders[0]"),
    );
    refused(HTTP, with("maxAge", json!(0)), &at("maxAge"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn timeouts_retries_and_sessions_fit_together() {
    let at = "spec.rules[0]";
    let timeouts = |request: &str, attempt: &str| {
        rule(
            "timeouts",
            json!({"request": request, "backendRequest": attempt}),
        )
    };
    accepted(HTTP, timeouts("10s", "10s"));
    accepted(HTTP, timeouts("0s", "10s"));
    refused(
        HTTP,
        timeouts("1s", "1001ms"),
        &format!("{at}.timeouts.backendRequest"),
    );
    let retry = |it: Value| rule("retry", it);
    accepted(
        HTTP,
        retry(json!({"codes": [400, 599], "attempts": 2, "backoff": "5ms"})),
    );
    refused(
        HTTP,
        retry(json!({"codes": [500, 399]})),
        &format!("{at}.retry.codes[1]"),
    );
    refused(
        HTTP,
        retry(json!({"codes": [500, 500]})),
        &format!("{at}.retry.codes[1]"),
    );
    refused(
        HTTP,
        retry(json!({"attempts": 11})),
        &format!("{at}.retry.attempts"),
    );
    for kind in [HTTP, GRPC] {
        let session = |it: Value| rule("sessionPersistence", it);
        let field = |name: &str| format!("{at}.sessionPersistence.{name}");
        accepted(
            kind,
            session(json!({"sessionName": "id", "type": "Header"})),
        );
        let permanent = json!({"lifetimeType": "Permanent"});
        accepted(
            kind,
            session(json!({"cookieConfig": permanent, "absoluteTimeout": "1h"})),
        );
        refused(
            kind,
            session(json!({ "cookieConfig": permanent })),
            &field("absoluteTimeout"),
        );
        let header = json!({"type": "Header", "cookieConfig": {}});
        refused(kind, session(header), &field("cookieConfig"));
        refused(
            kind,
            session(json!({"sessionName": "a b"})),
            &field("sessionName"),
        );
        refused(
            kind,
            session(json!({"sessionName": "a".repeat(129)})),
            &field("sessionName"),
        );
        refused(
            kind,
            session(json!({"idleTimeout": "0s"})),
            &field("idleTimeout"),
        );
    }
}

#[test]
fn grpc_methods_are_names_of_a_proto_file() {
    let method = |it: Value| rule("matches", json!([{ "method": it }]));
    let at = "spec.rules[0].matches[0].method";
    accepted(GRPC, method(json!({"service": "a.b.C", "method": "Do_1"})));
    accepted(GRPC, method(json!({"service": ".a.C"})));
    accepted(
        GRPC,
        method(json!({"type": "RegularExpression", "method": "Get.*"})),
    );
    accepted(
        GRPC,
        method(json!({"type": "RegularExpression", "service": "", "method": "Get"})),
    );
    refused(GRPC, method(json!({})), at);
    for wrong in ["", "a..b", "1a", "a/b", "a-b"] {
        refused(
            GRPC,
            method(json!({ "service": wrong })),
            &format!("{at}.service"),
        );
    }
    refused(
        GRPC,
        method(json!({"method": "a.b"})),
        &format!("{at}.method"),
    );
    let regular = json!({"type": "RegularExpression", "service": "("});
    refused(GRPC, method(regular), &format!("{at}.service"));
    accepted(GRPC, json!({"parentRefs": [parent()]}));
}

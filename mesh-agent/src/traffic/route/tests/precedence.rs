//! The rules of the Gateway API, case by case. Those that its conformance tests check are among them.

use super::*;

fn rules(matches: &[Value]) -> Value {
    let rules: Vec<_> = matches.iter().map(|it| json!({"matches": [it]})).collect();
    json!({ "rules": rules })
}

#[test]
fn the_more_specific_path_goes_first() {
    let route = http(
        "r",
        0,
        &rules(&[
            json!({}),
            json!({"path": {"type": "RegularExpression", "value": "/r.*"}}),
            json!({"path": {"value": "/v2/"}}),
            json!({"path": {"value": "/v2/example"}}),
            json!({"path": {"type": "Exact", "value": "/v2/example"}}),
            json!({"path": {"type": "RegularExpression", "value": "/v2/e.*"}}),
        ]),
    );
    check(
        &Table::new(vec![route]),
        &[
            (Ask::get("/"), "r/0"),
            (Ask::get("/v"), "r/0"),
            (Ask::get("/r"), "r/1"),
            (Ask::get("/x/r"), "r/0"),
            (Ask::get("/v2"), "r/2"),
            (Ask::get("/v2/"), "r/2"),
            (Ask::get("/v2/x"), "r/2"),
            (Ask::get("/v2example"), "r/0"),
            (Ask::get("/v2/example"), "r/4"),
            (Ask::get("/v2/example/"), "r/3"),
            (Ask::get("/v2/example/x"), "r/3"),
            (Ask::get("/v2/examplex"), "r/2"),
            (Ask::get("/V2"), "r/0"),
            (Ask::get("*"), "r/0"),
        ],
    );
}

#[test]
fn with_equal_paths_method_then_headers_then_parameters_decide() {
    let one = json!([{"name": "a", "value": "1"}]);
    let two = json!([{"name": "A", "value": "1"}, {"name": "b", "value": "2"}]);
    let route = http(
        "r",
        0,
        &rules(&[
            json!({}),
            json!({"queryParams": one}),
            json!({"queryParams": two}),
            json!({"headers": one}),
            json!({"headers": one, "queryParams": one}),
            json!({"headers": two}),
            json!({"method": "POST"}),
            json!({"method": "POST", "headers": one}),
        ]),
    );
    let post = Ask::get("/?a=1").method(Method::POST);
    check(
        &Table::new(vec![route]),
        &[
            (Ask::get("/"), "r/0"),
            (Ask::get("/?a=1"), "r/1"),
            (Ask::get("/?b=2&a=1"), "r/1"),
            (Ask::get("/?b=2&A=1"), "r/2"),
            (Ask::get("/?A=1").header("a", b"1"), "r/3"),
            (Ask::get("/?a=1").header("a", b"1"), "r/4"),
            (Ask::get("/?a=1").header("a", b"1").header("b", b"2"), "r/5"),
            (post.clone(), "r/6"),
            (post.header("a", b"1").header("b", b"2"), "r/7"),
        ],
    );
}

#[test]
fn a_path_whose_conditions_fail_leaves_the_request_to_a_shorter_one() {
    let header = json!([{"name": "x", "value": "1"}]);
    let route = http(
        "r",
        0,
        &rules(&[
            json!({"path": {"type": "Exact", "value": "/a/b"}, "headers": header}),
            json!({"path": {"value": "/a/b"}, "method": "PUT"}),
            json!({"path": {"value": "/a"}}),
        ]),
    );
    check(
        &Table::new(vec![route]),
        &[
            (Ask::get("/a/b").header("x", b"1"), "r/0"),
            (Ask::get("/a/b").method(Method::PUT), "r/1"),
            (Ask::get("/a/b"), "r/2"),
            (Ask::get("/b"), "none"),
        ],
    );
}

#[test]
fn the_more_specific_host_goes_first_and_others_follow() {
    let path = |value: &str| rules(&[json!({"path": {"value": value}})]);
    let hosts = |hosts: Value, value: &str| {
        let mut spec = path(value);
        spec["hostnames"] = hosts;
        spec
    };
    let table = Table::new(vec![
        http("any", 0, &path("/")),
        http("wild", 1, &hosts(json!(["*.example.com"]), "/")),
        http("longer", 2, &hosts(json!(["*.b.example.com"]), "/")),
        http(
            "exact",
            3,
            &hosts(json!(["a.example.com", "OTHER."]), "/exact"),
        ),
    ]);
    check(
        &table,
        &[
            (Ask::get("/exact").host("a.example.com"), "exact/0"),
            (Ask::get("/exact").host("A.Example.Com."), "exact/0"),
            (Ask::get("/exact").host("other"), "exact/0"),
            (Ask::get("/").host("a.example.com"), "wild/0"),
            (Ask::get("/").host("a.b.example.com"), "longer/0"),
            (Ask::get("/").host("b.example.com"), "wild/0"),
            (Ask::get("/").host("example.com"), "any/0"),
            (Ask::get("/").host("xexample.com"), "any/0"),
            (Ask::get("/").host(""), "any/0"),
        ],
    );
}

#[test]
fn between_equals_the_older_route_then_the_name_then_the_first_rule_decides() {
    let same = rules(&[json!({}), json!({})]);
    let table = |routes: &[(&str, u32)]| {
        Table::new(
            routes
                .iter()
                .map(|(name, at)| http(name, *at, &same))
                .collect(),
        )
    };
    let ask = Ask::get("/");
    assert_eq!(chosen(&table(&[("a", 2), ("b", 1)]), &ask), "b/0");
    assert_eq!(chosen(&table(&[("b", 1), ("a", 1)]), &ask), "a/0");
}

#[test]
fn values_are_compared_as_a_whole_and_expressions_only_with_text() {
    let expression =
        |value: &str| json!([{"type": "RegularExpression", "name": "x", "value": value}]);
    let route = http(
        "r",
        0,
        &rules(&[
            json!({"path": {"value": "/h"}, "headers": expression("[^a]+|b")}),
            json!({"path": {"value": "/q"}, "queryParams": expression("b+")}),
            json!({"path": {"value": "/m"}, "headers": [{"name": "x", "value": "1, 2"}]}),
        ]),
    );
    check(
        &Table::new(vec![route]),
        &[
            (Ask::get("/h").header("x", b"b"), "r/0"),
            (Ask::get("/h").header("x", b"ba"), "none"),
            (Ask::get("/h").header("x", b"\xff"), "none"),
            (Ask::get("/h").header("x", "é".as_bytes()), "r/0"),
            (Ask::get("/h"), "none"),
            (Ask::get("/q?x=%62b&x=c"), "r/1"),
            (Ask::get("/q?x=c&x=b"), "none"),
            (Ask::get("/m").header("x", b"1").header("x", b"2"), "r/2"),
            (Ask::get("/m").header("x", b"1"), "none"),
        ],
    );
}

#[test]
fn of_conditions_of_one_name_the_first_counts() {
    let twice = json!([{"name": "x", "value": "1"}, {"name": "X", "value": "2"}]);
    let table = Table::new(vec![http("r", 0, &rules(&[json!({"headers": twice})]))]);
    check(
        &table,
        &[
            (Ask::get("/").header("x", b"1"), "r/0"),
            (Ask::get("/").header("x", b"2"), "none"),
        ],
    );
}

#[test]
fn calls_are_chosen_by_service_and_method() {
    let route = grpc(
        "g",
        0,
        &rules(&[
            json!({}),
            json!({"method": {"method": "Get"}}),
            json!({"method": {"service": "a.B"}}),
            json!({"method": {"service": "a.B", "method": "Get"}}),
            json!({"method": {"type": "RegularExpression", "service": "x.*", "method": "G.t"}}),
            json!({"method": {"service": "a.B", "method": "Get"}, "headers": [{"name": "x", "value": "1"}]}),
            json!({"method": {"type": "RegularExpression", "service": "a.B", "method": "List.*"}}),
            json!({"method": {"type": "RegularExpression", "service": "..", "method": "Listen"}}),
            json!({"method": {"service": "long"}}),
            json!({"method": {"type": "RegularExpression", "service": "l.*", "method": "Listen"}}),
        ]),
    );
    check(
        &Table::new(vec![route]),
        &[
            (Ask::grpc("/z.Z/Put"), "g/0"),
            (Ask::grpc("/z.Z/Get"), "g/1"),
            (Ask::grpc("/a.B/Put"), "g/2"),
            (Ask::grpc("/a.B/Get"), "g/3"),
            (Ask::grpc("/a.B/Get").header("x", b"1"), "g/5"),
            (Ask::grpc("/xyz/Got"), "g/4"),
            (Ask::grpc("/xyz/Gooot"), "g/0"),
            (Ask::grpc("/z.Z/get"), "g/0"),
            (Ask::get("/a.B/Get"), "none"),
            // Most characters in the service, then in the method.
            (Ask::grpc("/a.B/ListItems"), "g/6"),
            (Ask::grpc("/ab/Listen"), "g/7"),
            (Ask::grpc("/long/Listen"), "g/8"),
            (Ask::grpc("/longer/Listen"), "g/9"),
        ],
    );
}

#[test]
fn http_and_grpc_routes_of_one_port_are_merged() {
    let table = Table::new(vec![
        http(
            "h",
            0,
            &rules(&[json!({}), json!({"path": {"value": "/a.B"}})]),
        ),
        grpc(
            "g",
            1,
            &rules(&[json!({"method": {"service": "a.B", "method": "Get"}})]),
        ),
    ]);
    check(
        &table,
        &[
            (Ask::grpc("/a.B/Get"), "g/0"),
            (Ask::get("/a.B/Get"), "h/1"),
            (Ask::grpc("/a.B/Put"), "h/1"),
            (Ask::grpc("/c/Get"), "h/0"),
        ],
    );
}

#[test]
fn a_rule_that_cannot_be_compiled_takes_nothing_and_hurts_nobody() {
    let spec = json!({"rules": [
        {"matches": [
            {"path": {"value": "/a"}},
            {"path": {"type": "RegularExpression", "value": "("}},
        ]},
        {"matches": [{"path": {"value": "/b"}}], "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "te", "value": "x"}]}},
        ]},
        {"matches": [{"path": {"value": "/a"}, "headers": [{"name": "b d", "value": ""}]}, {}]},
        {"matches": [{"path": {"value": "/c"}}]},
    ]});
    let route = http("r", 0, &spec);
    let fields: Vec<_> = route.problems.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.rules[0].matches[1].path.value",
            "spec.rules[1].filters[0]",
            "spec.rules[2].matches[0].headers[0].name",
        ]
    );
    assert!(route.rules[1].is_broken);
    check(
        &Table::new(vec![route]),
        &[
            (Ask::get("/a"), "none"),
            (Ask::get("/b"), "r/1"),
            (Ask::get("/c"), "r/3"),
        ],
    );
}

#[test]
fn a_match_of_host_is_about_whom_a_request_names_wherever_it_does() {
    // Few are read from the front, many are found by the header.
    for count in [1, 20] {
        let list = (0..count).map(
            |number| json!({"headers": [{"name": "Host", "value": format!("Web-{number}:80")}]}),
        );
        let list: Vec<_> = list.collect();
        let table = Table::new(vec![http("r", 0, &rules(&list))]);
        check(
            &table,
            &[
                (Ask::get("/").host("web-0:80"), "r/0"),
                (Ask::get("/").host("web-0"), "none"),
                (Ask::get("/").host("x").header("host", b"web-0:80"), "none"),
            ],
        );
    }
}

#[test]
fn paths_are_compared_in_the_spelling_that_requests_are_given() {
    let exact = json!({"path": {"type": "Exact", "value": "/caf%c3%a9"}});
    let prefix = json!({"path": {"value": "/%7Euser/"}});
    let table = Table::new(vec![http("r", 0, &rules(&[exact, prefix]))]);
    check(
        &table,
        &[
            (Ask::get("/caf%C3%A9"), "r/0"),
            (Ask::get("/~user"), "r/1"),
            (Ask::get("/~user/x"), "r/1"),
            // As they come where they are not normalised.
            (Ask::get("/caf%c3%a9"), "r/0"),
            (Ask::get("/%7Euser/x"), "r/1"),
            (Ask::get("/~users"), "none"),
        ],
    );
    let choice = Ask::get("/~user/x");
    let choice = table.choose(&choice.request()).unwrap();
    assert_eq!(choice.prefix, Some("/~user".len()));
}

#[test]
fn a_choice_says_what_all_paths_of_its_match_begin_with() {
    let path = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
    for (kind, value, asked, scope) in [
        ("PathPrefix", "/", "/foo/x", ""),
        ("PathPrefix", "/foo/", "/foo/x", "/foo"),
        ("Exact", "/foo/x", "/foo/x", "/foo/x"),
        (
            "RegularExpression",
            "/p1/p2/[^/]*/p3",
            "/p1/p2/foo/p3",
            "/p1/p2",
        ),
        ("RegularExpression", "/foo.*", "/foobar", ""),
        ("RegularExpression", "/a/b?c", "/a/c", "/a"),
        ("RegularExpression", "/a/?c", "/ac", ""),
        ("RegularExpression", "/a/b|/c/d", "/c/d", ""),
        ("RegularExpression", "/a/b", "/a/b", "/a/b"),
        ("RegularExpression", ".*", "/a/b", ""),
    ] {
        let table = Table::new(vec![http("r", 0, &rules(&[path(kind, value)]))]);
        let ask = Ask::get(asked);
        let choice = table.choose(&ask.request()).unwrap();
        assert_eq!(asked.get(..choice.scope), Some(scope), "{value}");
    }
}

#[test]
fn many_matches_of_one_path_are_found_by_their_headers() {
    let mut list: Vec<_> = (0..1000)
        .map(|user| json!({"headers": [{"name": "x-user", "value": user.to_string()}]}))
        .collect();
    list.push(
        json!({"headers": [{"name": "x-tenant", "value": "7"}, {"name": "x-user", "value": "7"}]}),
    );
    list.push(
        json!({"headers": [{"type": "RegularExpression", "name": "x-user", "value": "u.*"}]}),
    );
    list.push(json!({"method": "PUT"}));
    let table = Table::new(vec![http("r", 0, &rules(&list))]);
    check(
        &table,
        &[
            (Ask::get("/").header("x-user", b"7"), "r/7"),
            (Ask::get("/").header("x-user", b"999"), "r/999"),
            (
                Ask::get("/")
                    .header("x-user", b"7")
                    .header("x-tenant", b"7"),
                "r/1000",
            ),
            (Ask::get("/").header("x-user", b"ux"), "r/1001"),
            (
                Ask::get("/").method(Method::PUT).header("x-user", b"7"),
                "r/1002",
            ),
            (Ask::get("/").header("x-user", b"1000"), "none"),
        ],
    );
}

//! Heads of requests and responses.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};

use super::request::check;
use super::trace::is_traceparent;
use super::{
    Additions, After, LastHost, Wish, clean_request, clean_response, clean_trailers, is_idempotent,
    remove_lookalikes, rewrite,
};

const ADDITIONS: Additions<'_> = Additions {
    caller: None,
    random: || 7,
};

fn parts(version: Version, uri: &str, headers: &[(&'static str, &'static str)]) -> Parts {
    let mut request = Request::builder().version(version).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn checked(version: Version, uri: &str, headers: &[(&'static str, &'static str)]) -> Option<Wish> {
    check(&parts(version, uri, headers), &LastHost::default()).ok()
}

fn judged(head: &Parts) -> Wish {
    check(head, &LastHost::default()).expect("sound")
}

/// Makes the head that an endpoint gets.
fn send(head: &mut Parts, mut wish: Wish, fallback: &str, is_http2: bool, has_body: bool) {
    clean_request(head, &mut wish, ADDITIONS);
    rewrite(head, &wish, fallback, is_http2, has_body).expect("rewrites");
}

#[test]
fn a_request_names_one_host() {
    let host = |version, uri, headers: &[_]| {
        let wish = checked(version, uri, headers)?;
        Some(wish.authority.map(|authority| authority.to_string()))
    };
    let (old, one, two) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
    assert_eq!(
        host(one, "/", &[("host", "web:80")]),
        Some(Some("web:80".to_owned()))
    );
    assert_eq!(
        host(one, "http://web/", &[("host", "WEB")]),
        Some(Some("web".to_owned()))
    );
    assert_eq!(host(two, "http://web/", &[]), Some(Some("web".to_owned())));
    assert_eq!(
        host(two, "/", &[("host", "web")]),
        Some(Some("web".to_owned()))
    );
    assert_eq!(host(old, "/", &[]), Some(None));
    assert_eq!(host(one, "/", &[]), None);
    assert_eq!(host(one, "/", &[("host", "a"), ("host", "a")]), None);
    assert_eq!(host(one, "/", &[("host", "a b")]), None);
    assert_eq!(host(one, "/", &[("host", "me@a")]), None);
    assert_eq!(host(two, "http://web/", &[("host", "other")]), None);
    assert_eq!(host(two, "/", &[]), Some(None));
    for bad in [
        "", "a,b", "a:0", "a:080", "a:port", "a..b", "a%2eb", "[::1", "a/b", "\u{e9}",
    ] {
        assert_eq!(host(one, "/", &[("host", bad)]), None, "{bad}");
        assert_eq!(host(two, "http://a/", &[("host", bad)]), None, "{bad}");
    }
    assert_eq!(host(one, "http://me@a/", &[("host", "a")]), None);
    assert_eq!(host(one, "ftp://a/", &[("host", "a")]), None);
}

#[test]
fn a_host_has_one_spelling_and_two_that_mean_the_same_agree() {
    let host = |uri, host| {
        let wish = checked(Version::HTTP_11, uri, &[("host", host)])?;
        wish.authority.map(|authority| authority.to_string())
    };
    for (uri, header, expected) in [
        ("/", "Web.Shop.", Some("web.shop")),
        ("/", "WEB:8080", Some("web:8080")),
        ("http://WEB/", "web.", Some("web")),
        ("http://web:80/", "web", Some("web:80")),
        ("http://web/", "WEB:80", Some("web")),
        ("https://web:443/", "web", Some("web:443")),
        ("http://web:443/", "web", None),
        ("http://web/", "web:8080", None),
        ("http://[0::1]/", "[::1]", Some("[::1]")),
        ("http://web/", "web2", None),
    ] {
        assert_eq!(host(uri, header).as_deref(), expected, "{uri} {header}");
    }
}

#[test]
fn white_space_around_a_value_is_refused_in_both_directions() {
    for value in [" x", "x ", "\tx", "x\t", " "] {
        let headers = [("host", "a"), ("x-y", value)];
        assert_eq!(checked(Version::HTTP_2, "/", &headers), None, "{value:?}");
        let mut response = response(&[("x-y", value)]);
        assert!(
            clean_response(&mut response, After::Serve).is_err(),
            "{value:?}"
        );
    }
    // gRPC puts messages into fields as they are.
    let mut call = response(&[
        ("content-type", "application/grpc"),
        ("grpc-message", " no \t"),
    ]);
    assert_eq!(clean_response(&mut call, After::Serve), Ok(()));
    assert_eq!(call.headers()["grpc-message"], "no");
    assert!(checked(Version::HTTP_2, "/", &[("host", "a"), ("x-y", "")]).is_some());
    assert!(checked(Version::HTTP_2, "/", &[("host", "a"), ("x-y", "x y")]).is_some());
}

fn response(headers: &[(&'static str, &'static str)]) -> Response<()> {
    let mut response = Response::new(());
    for (name, value) in headers {
        let name = http::HeaderName::from_static(name);
        response
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
    }
    response
}

#[test]
fn a_length_is_one_number() {
    for bad in [
        &["+1"][..],
        &["1", "2"],
        &["-1"],
        &["1,1"],
        &[""],
        &["0x1"],
        &["1.0"],
        &["18446744073709551616"],
    ] {
        let mut headers: Vec<_> = bad.iter().map(|value| ("content-length", *value)).collect();
        let mut answer = response(&headers);
        assert!(
            clean_response(&mut answer, After::Serve).is_err(),
            "{bad:?}"
        );
        headers.push(("host", "a"));
        assert_eq!(checked(Version::HTTP_2, "/", &headers), None, "{bad:?}");
    }
    let mut answer = response(&[("content-length", "3"), ("content-length", "3")]);
    assert_eq!(clean_response(&mut answer, After::Serve), Ok(()));
    assert_eq!(answer.headers().get_all("content-length").iter().count(), 1);
}

#[test]
fn a_response_is_framed_in_one_way() {
    let chunked = ("transfer-encoding", "chunked");
    for bad in [
        &[chunked, ("content-length", "3")][..],
        &[chunked, chunked],
        &[("transfer-encoding", "gzip")],
        &[("transfer-encoding", "gzip, chunked")],
        &[("transfer-encoding", "identity")],
        &[("transfer-encoding", "")],
    ] {
        assert!(
            clean_response(&mut response(bad), After::Serve).is_err(),
            "{bad:?}"
        );
    }
    let mut good = response(&[("transfer-encoding", "Chunked")]);
    assert_eq!(clean_response(&mut good, After::Serve), Ok(()));
    assert!(good.headers().is_empty());
}

#[test]
fn what_only_a_proxy_may_say_is_removed() {
    let mut head = parts(
        Version::HTTP_11,
        "/",
        &[
            ("host", "a"),
            ("connection", "x-forwarded-proto, x-kept-not"),
            ("x-kept-not", "1"),
            ("X-Forwarded-For", "6.6.6.6"),
            ("x-forwarded-host", "evil"),
            ("x-FORWARDED-anything", "evil"),
            ("Forwarded", "for=6.6.6.6"),
            ("X-Real-IP", "6.6.6.6"),
            ("x-envoy-original-path", "/admin"),
            ("x-mesh-identity", "root"),
            ("true-client-ip", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("X_Real-IP", "6.6.6.6"),
            ("content_length", "5"),
            ("transfer_encoding", "chunked"),
            ("Content_Type", "x"),
            ("x-tenant", "one"),
            ("x_tenant", "two"),
            ("x_alone", "kept"),
            ("x-b3-traceid", "kept"),
            ("x-forward", "kept"),
        ],
    );
    let wish = judged(&head);
    send(&mut head, wish, "web", false, false);
    let mut names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected = [
        "host",
        "traceparent",
        "x-b3-traceid",
        "x-forward",
        "x-forwarded-proto",
        "x-request-id",
        "x-tenant",
        "x_alone",
    ];
    assert_eq!(names, expected);
    assert_eq!(head.headers["x-forwarded-proto"], "http");
    assert_eq!(
        head.headers["traceparent"],
        "00-00000000000000000000000000000007-0000000000000001-00"
    );
}

#[test]
fn trailers_carry_no_framing_routing_or_identity() {
    let mut trailers = HeaderMap::new();
    for name in [
        "grpc-status",
        "x-checksum",
        "content-length",
        "transfer-encoding",
        "host",
        "authorization",
        "cookie",
        "set-cookie",
        "x-forwarded-for",
        "x-mesh-error",
        "x_forwarded_for",
        "connection",
        "te",
        "trailer",
        "content-type",
    ] {
        trailers.insert(name, HeaderValue::from_static("1"));
    }
    trailers.insert("grpc-message", HeaderValue::from_static("\t no  one "));
    clean_trailers(&mut trailers);
    let mut names: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["grpc-message", "grpc-status", "x-checksum"]);
    assert_eq!(trailers["grpc-message"], "no  one");
}

#[test]
fn the_framing_is_one_of_two() {
    let host = ("host", "a");
    let chunked = ("transfer-encoding", "chunked");
    assert!(checked(Version::HTTP_11, "/", &[host, chunked]).is_some());
    assert!(
        checked(
            Version::HTTP_11,
            "/",
            &[host, ("transfer-encoding", "Chunked")]
        )
        .is_some()
    );
    assert!(checked(Version::HTTP_11, "/", &[host, ("content-length", "3")]).is_some());
    assert!(
        checked(
            Version::HTTP_11,
            "/",
            &[host, chunked, ("content-length", "3")]
        )
        .is_none()
    );
    assert!(checked(Version::HTTP_11, "/", &[host, chunked, chunked]).is_none());
    for coding in [
        "gzip, chunked",
        ",chunked",
        "identity",
        "chunked, chunked",
        "xchunked",
    ] {
        let headers = [host, ("transfer-encoding", coding)];
        assert!(
            checked(Version::HTTP_11, "/", &headers).is_none(),
            "{coding}"
        );
    }
    assert!(checked(Version::HTTP_10, "/", &[host, chunked]).is_none());
}

#[test]
fn an_upgrade_is_asked_for_twice_and_never_to_http_or_tls() {
    let upgrade = |headers: &[_]| {
        let connection = [("host", "a"), ("connection", "keep-alive, Upgrade")];
        let headers = [&connection, headers].concat();
        let wish = checked(Version::HTTP_11, "/", &headers).expect("sound");
        let upgrade = wish.upgrade?;
        Some(upgrade.to_str().expect("text").to_owned())
    };
    for (offered, kept) in [
        (&["websocket"][..], Some("websocket")),
        (&["a/1 ,, b", "c"], Some("a/1, b, c")),
        (&["h2c"], None),
        (&["H2"], None),
        (&["HTTP/2.0"], None),
        (&["TLS/1.2"], None),
        (&[""], None),
        (&["websocket, h2c"], Some("websocket")),
        (&["x,h2c", "TLS/1.3, y"], Some("x, y")),
    ] {
        let headers: Vec<_> = offered.iter().map(|value| ("upgrade", *value)).collect();
        assert_eq!(upgrade(&headers).as_deref(), kept, "{offered:?}");
    }
    let alone = [("host", "a"), ("upgrade", "websocket")];
    let wish = checked(Version::HTTP_11, "/", &alone).expect("sound");
    assert_eq!(wish.upgrade, None);
}

#[test]
fn an_answer_switches_to_what_was_asked_for() {
    let asks = |offered| {
        let head = [
            ("host", "a"),
            ("connection", "upgrade"),
            ("upgrade", offered),
        ];
        let wish = checked(Version::HTTP_11, "/", &head).expect("sound");
        move |chosen: &[&'static str]| {
            let headers: Vec<_> = chosen.iter().map(|value| ("upgrade", *value)).collect();
            wish.has_asked_for(response(&headers).headers())
        }
    };
    let asks_for = asks("websocket, x/1");
    for chosen in [&["WebSocket"][..], &["x/1"], &["x/1, websocket"]] {
        assert!(asks_for(chosen), "{chosen:?}");
    }
    for chosen in [&[][..], &["h2c"], &["websocket", "h2c"], &["x"], &[""]] {
        assert!(!asks_for(chosen), "{chosen:?}");
    }
    assert!(!asks("h2c")(&["h2c"]));
}

#[test]
fn an_offer_is_given_up_and_a_websocket_is_none() {
    let forgo = |offered| {
        let head = [
            ("host", "a"),
            ("connection", "upgrade"),
            ("upgrade", offered),
        ];
        let mut wish = checked(Version::HTTP_11, "/", &head).expect("sound");
        wish.forgo_upgrade().map(|()| wish.may_tunnel()).ok()
    };
    assert_eq!(forgo("x, y"), Some(false));
    assert_eq!(forgo("x, WebSocket"), None);
}

#[test]
fn a_body_is_framed_whatever_the_method() {
    let framing = |method: Method, is_http2, has_body, headers: &[_]| {
        let headers = [&[("host", "a")], headers].concat();
        let mut head = parts(Version::HTTP_11, "/", &headers);
        head.method = method;
        let wish = judged(&head);
        send(&mut head, wish, "web", is_http2, has_body);
        let coding = head.headers.get("transfer-encoding");
        coding.map(|coding| coding.to_str().expect("text").to_owned())
    };
    let chunked = [("transfer-encoding", "Chunked")];
    let sized = [("content-length", "3")];
    for method in [Method::GET, Method::HEAD, Method::POST] {
        let framing = |is_http2, has_body, headers: &[_]| {
            framing(method.clone(), is_http2, has_body, headers)
        };
        assert_eq!(framing(false, true, &chunked).as_deref(), Some("chunked"));
        assert_eq!(framing(false, true, &[]).as_deref(), Some("chunked"));
        assert_eq!(framing(false, true, &sized), None);
        assert_eq!(framing(false, false, &[]), None);
        assert_eq!(framing(true, true, &chunked), None);
    }
}

#[test]
fn cookies_that_http_2_has_spread_are_one_field_in_http_1() {
    let sent = |from, is_http2| {
        let crumbs = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3")];
        let mut head = parts(from, "http://web/", &crumbs);
        head.headers.insert("host", HeaderValue::from_static("web"));
        let wish = judged(&head);
        send(&mut head, wish, "web", is_http2, false);
        let cookies = head.headers.get_all("cookie").iter();
        let texts: Vec<_> = cookies.map(|it| it.to_str().expect("text")).collect();
        texts.join(" | ")
    };
    assert_eq!(sent(Version::HTTP_2, false), "a=1; b=2; c=3");
    assert_eq!(sent(Version::HTTP_2, true), "a=1 | b=2; c=3");
    assert_eq!(sent(Version::HTTP_11, false), "a=1 | b=2; c=3");
}

#[test]
fn what_looks_like_a_field_that_a_route_sets_goes() {
    let mut head = parts(
        Version::HTTP_11,
        "/",
        &[
            ("x-tenant", "one"),
            ("x_tenant", "two"),
            ("x-a_b", "three"),
            ("x_tenants", "kept"),
        ],
    );
    for name in ["x-tenant", "x_a-b"].map(http::HeaderName::from_static) {
        remove_lookalikes(&mut head.headers, &name);
    }
    let mut left: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["x-tenant", "x_tenants"]);
}

#[test]
fn what_belongs_to_one_connection_stays_there() {
    let mut head = parts(
        Version::HTTP_11,
        "http://web/x?y",
        &[
            ("host", "web"),
            ("connection", "x-one, host, authorization, TE, close"),
            ("x-one", "1"),
            ("authorization", "secret"),
            ("keep-alive", "5"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-client-cert", "By=me"),
        ],
    );
    let wish = judged(&head);
    send(&mut head, wish, "web.shop.mesh", true, false);
    let mut names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "authorization",
            "te",
            "traceparent",
            "x-forwarded-proto",
            "x-request-id"
        ]
    );
    assert_eq!(
        (head.uri.to_string(), head.version),
        ("http://web/x?y".to_owned(), Version::HTTP_2)
    );
}

#[test]
fn a_request_that_names_nobody_names_the_service() {
    let mut head = parts(Version::HTTP_10, "/x", &[]);
    let wish = judged(&head);
    send(&mut head, wish, "web.shop.mesh", false, false);
    assert_eq!(head.headers["host"], "web.shop.mesh");
    assert_eq!(
        (head.uri.to_string(), head.version),
        ("/x".to_owned(), Version::HTTP_11)
    );
}

#[test]
fn a_connect_names_its_target() {
    let mut head = parts(Version::HTTP_11, "db:5432", &[("host", "db:5432")]);
    head.method = Method::CONNECT;
    let wish = judged(&head);
    assert!(wish.is_connect && wish.may_tunnel());
    send(&mut head, wish, "web", false, false);
    assert_eq!(head.uri.to_string(), "db:5432");
}

#[test]
fn a_connect_without_a_host_and_a_port_is_refused() {
    for (uri, headers) in [
        ("/", &[("host", "db:5432")][..]),
        ("db", &[("host", "db")]),
        ("http://db:5432/", &[("host", "db:5432")]),
        ("db:0", &[("host", "db:0")]),
        ("db:5432", &[("host", "db:5432"), ("content-length", "3")]),
        (
            "db:5432",
            &[("host", "db:5432"), ("transfer-encoding", "chunked")],
        ),
        ("db:5432", &[("host", "other:5432")]),
    ] {
        let mut head = parts(Version::HTTP_11, uri, headers);
        head.method = Method::CONNECT;
        assert!(check(&head, &LastHost::default()).is_err(), "{uri}");
    }
}

#[test]
fn a_trace_context_is_passed_on_only_if_it_is_one() {
    assert!(is_traceparent(
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ));
    assert!(is_traceparent(
        b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"
    ));
    for bad in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    ] {
        assert!(!is_traceparent(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn a_response_says_what_becomes_of_the_connection() {
    let connection = |after| {
        let mut response = response(&[
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("x-mesh-error", "policy"),
            ("content-length", "3"),
        ]);
        if after == After::Switch {
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        }
        clean_response(&mut response, after).expect("sound");
        let headers = response.headers();
        assert!(!headers.contains_key("x-mesh-error"));
        assert_eq!(headers.contains_key("upgrade"), after == After::Switch);
        assert_eq!(
            headers.contains_key("content-length"),
            after != After::Switch
        );
        headers.get("connection").cloned()
    };
    assert_eq!(connection(After::Serve), None);
    assert_eq!(
        connection(After::Close),
        Some(HeaderValue::from_static("close"))
    );
    assert_eq!(
        connection(After::Switch),
        Some(HeaderValue::from_static("upgrade"))
    );
}

#[test]
fn only_what_makes_no_difference_is_idempotent() {
    assert!(is_idempotent(&Method::GET) && is_idempotent(&Method::DELETE));
    assert!(!is_idempotent(&Method::POST) && !is_idempotent(&Method::PATCH));
}

#[test]
fn a_host_that_was_named_before_is_judged_no_less() {
    let last = LastHost::default();
    let check = |uri, headers: &[_]| {
        let wish = check(&parts(Version::HTTP_11, uri, headers), &last).ok()?;
        Some(wish.authority?.to_string())
    };
    for _ in 0..2 {
        assert_eq!(check("/", &[("host", "web:80")]).as_deref(), Some("web:80"));
        assert_eq!(check("/", &[("host", "web:80"), ("host", "web:80")]), None);
        assert_eq!(check("http://other/", &[("host", "web:80")]), None);
        assert_eq!(check("http://web:80/", &[]), None);
        assert_eq!(
            check("/", &[("host", "WEB.:80")]).as_deref(),
            Some("web:80")
        );
        assert_eq!(check("/", &[("host", "web,80")]), None);
    }
}

//! Heads of requests and responses.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Version};

use super::{Additions, Wish, check, clean_response, is_idempotent, is_traceparent, rewrite};

const ADDITIONS: Additions = Additions {
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
    check(&parts(version, uri, headers)).ok()
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
    assert_eq!(host(one, "/", &[("host", "")]), Some(None));
    assert_eq!(host(one, "/", &[]), None);
    assert_eq!(host(one, "/", &[("host", "a"), ("host", "a")]), None);
    assert_eq!(host(one, "/", &[("host", "a b")]), None);
    assert_eq!(host(one, "/", &[("host", "me@a")]), None);
    assert_eq!(host(two, "http://web/", &[("host", "other")]), None);
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
fn an_upgrade_is_asked_for_twice_and_never_to_http_2() {
    let upgrade = |headers: &[_]| {
        let headers = [&[("host", "a")], headers].concat();
        checked(Version::HTTP_11, "/", &headers)?.upgrade
    };
    let websocket = ("upgrade", "websocket");
    assert!(upgrade(&[websocket, ("connection", "keep-alive, Upgrade")]).is_some());
    assert!(upgrade(&[websocket]).is_none());
    assert!(upgrade(&[("upgrade", "h2c"), ("connection", "upgrade")]).is_none());
}

#[test]
fn what_belongs_to_one_connection_stays_there() {
    let mut head = parts(
        Version::HTTP_11,
        "http://web/x?y",
        &[
            ("host", "web"),
            ("connection", "x-one, host, authorization, close"),
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
    let wish = check(&head).expect("sound");
    rewrite(&mut head, &wish, "web.shop.mesh", true, ADDITIONS).expect("rewrites");
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
    let wish = check(&head).expect("sound");
    rewrite(&mut head, &wish, "web.shop.mesh", false, ADDITIONS).expect("rewrites");
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
    let wish = check(&head).expect("sound");
    assert!(wish.is_connect);
    rewrite(&mut head, &wish, "web", false, ADDITIONS).expect("rewrites");
    assert_eq!(head.uri.to_string(), "db:5432");
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
fn a_response_keeps_its_upgrade_only_when_it_switches() {
    for upgraded in [false, true] {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        headers.insert("x-mesh-error", HeaderValue::from_static("policy"));
        clean_response(&mut headers, upgraded);
        assert_eq!(headers.contains_key("upgrade"), upgraded);
        assert!(!headers.contains_key("x-mesh-error"));
    }
}

#[test]
fn only_what_makes_no_difference_is_idempotent() {
    assert!(is_idempotent(&Method::GET) && is_idempotent(&Method::DELETE));
    assert!(!is_idempotent(&Method::POST) && !is_idempotent(&Method::PATCH));
}

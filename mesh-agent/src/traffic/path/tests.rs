//! Spellings of one protected path, and what becomes of each.

use std::borrow::Cow;

use proptest::prelude::*;

use super::{Mode, Rejected, normalize};

const CANONICAL: &str = "/admin/secret";

/// Spellings that are given the canonical one.
const SAME: &[&str] = &[
    "/admin/secret",
    // Slashes.
    "//admin/secret",
    "///admin/secret",
    "/admin//secret",
    "/admin///secret",
    "//admin//secret",
    "////admin////secret",
    "/admin\\secret",
    "/\\admin/secret",
    "/admin\\\\secret",
    "/admin/\\secret",
    "/admin\\/secret",
    "/\\/admin\\/secret",
    "//\\admin\\\\/secret",
    // Dot segments.
    "/./admin/secret",
    "/admin/./secret",
    "/./admin/./secret",
    "/././admin/secret",
    "/admin/././secret",
    "/../admin/secret",
    "/../../admin/secret",
    "/../../../../admin/secret",
    "/./../admin/secret",
    "/.././admin/secret",
    "/x/../admin/secret",
    "/x/y/../../admin/secret",
    "/x/../../admin/secret",
    "/x/../x/../admin/secret",
    "/admin/x/../secret",
    "/admin/x/y/../../secret",
    "/admin/../admin/secret",
    "/admin/secret/../secret",
    "/admin/secret/x/../../secret",
    "/admin/./x/.././secret",
    "/x/.././admin/secret",
    "/x/./../admin/secret",
    "/public/../admin/secret",
    "/public/./../admin/./secret",
    "/...//../admin/secret",
    "/.x/../admin/secret",
    "/x./../admin/secret",
    "/x../../admin/secret",
    "/..x/../admin/secret",
    // Dot segments with many slashes and backslashes.
    "/x//../admin/secret",
    "/x/..//admin/secret",
    "//x/../admin//secret",
    "/.//admin/secret",
    "/..//admin/secret",
    "//../admin/secret",
    "/x\\..\\admin\\secret",
    "/x/..\\admin/secret",
    "/x\\../admin/secret",
    "/.\\admin/secret",
    "/..\\admin/secret",
    "/\\..\\admin\\.\\secret",
    "/admin/x\\..\\secret",
    "/admin\\.\\secret",
    // Escaped dots.
    "/%2e/admin/secret",
    "/%2E/admin/secret",
    "/%2e%2e/admin/secret",
    "/%2E%2E/admin/secret",
    "/%2e%2E/admin/secret",
    "/.%2e/admin/secret",
    "/%2e./admin/secret",
    "/.%2E/admin/secret",
    "/%2E./admin/secret",
    "/x/%2e%2e/admin/secret",
    "/x/.%2e/admin/secret",
    "/x/%2e./admin/secret",
    "/x/%2E%2e/admin/secret",
    "/x/y/%2e%2e/%2e%2e/admin/secret",
    "/x/y/%2e%2e/../admin/secret",
    "/x/%2e/%2e%2e/admin/secret",
    "/admin/%2e/secret",
    "/admin/x/%2e%2e/secret",
    "/admin/%2e/%2e/secret",
    "/x/%2e%2e//admin/secret",
    "/x//%2e%2e/admin/secret",
    "/x/%2e%2e\\admin/secret",
    "/x\\%2e%2e\\admin/secret",
    // Escaped letters.
    "/%61dmin/secret",
    "/a%64min/secret",
    "/ad%6din/secret",
    "/ad%6Din/secret",
    "/adm%69n/secret",
    "/admi%6e/secret",
    "/admi%6E/secret",
    "/%61%64%6d%69%6e/secret",
    "/%61%64%6D%69%6E/secret",
    "/admin/%73ecret",
    "/admin/s%65cret",
    "/admin/se%63ret",
    "/admin/sec%72et",
    "/admin/secr%65t",
    "/admin/secre%74",
    "/admin/%73%65%63%72%65%74",
    "/%61dmin/%73ecret",
    "/%61dmin//%73ecret",
    "/%61dmin/./%73ecret",
    "/x/../%61dmin/secret",
    "/%78/%2e%2e/%61dmin/%73ecret",
    "//%61dmin\\%73ecret",
];

/// Spellings that are refused, and why.
const REFUSED: &[(&str, Rejected)] = &[
    // Escaped slashes.
    ("/admin%2fsecret", Rejected::EscapedSlash),
    ("/admin%2Fsecret", Rejected::EscapedSlash),
    ("/%2fadmin/secret", Rejected::EscapedSlash),
    ("/%2Fadmin%2Fsecret", Rejected::EscapedSlash),
    ("/admin/%2fsecret", Rejected::EscapedSlash),
    ("/admin%2f/secret", Rejected::EscapedSlash),
    ("/admin%5csecret", Rejected::EscapedSlash),
    ("/admin%5Csecret", Rejected::EscapedSlash),
    ("/%5cadmin/secret", Rejected::EscapedSlash),
    ("/admin/%5Csecret", Rejected::EscapedSlash),
    ("/x%2f..%2fadmin/secret", Rejected::EscapedSlash),
    ("/x/..%2fadmin/secret", Rejected::EscapedSlash),
    ("/x/%2e%2e%2fadmin/secret", Rejected::EscapedSlash),
    ("/x%2f%2e%2e/admin/secret", Rejected::EscapedSlash),
    ("/..%2fadmin/secret", Rejected::EscapedSlash),
    ("/..%5cadmin/secret", Rejected::EscapedSlash),
    ("/%2e%2e%5cadmin/secret", Rejected::EscapedSlash),
    ("/.%2fadmin/secret", Rejected::EscapedSlash),
    ("/public/..%2F..%2Fadmin/secret", Rejected::EscapedSlash),
    ("/public/%2e%2e%2Fadmin%2Fsecret", Rejected::EscapedSlash),
    ("/admin%2f..%2fadmin/secret", Rejected::EscapedSlash),
    ("/%61dmin%2fsecret", Rejected::EscapedSlash),
    // Parameters.
    ("/admin;/secret", Rejected::Parameters),
    ("/admin;x/secret", Rejected::Parameters),
    ("/admin;x=1/secret", Rejected::Parameters),
    ("/admin/secret;", Rejected::Parameters),
    ("/admin/secret;x", Rejected::Parameters),
    ("/admin/secret;jsessionid=1", Rejected::Parameters),
    ("/;/admin/secret", Rejected::Parameters),
    ("/;x/admin/secret", Rejected::Parameters),
    ("/admin/;/secret", Rejected::Parameters),
    ("/admin/;x=/secret", Rejected::Parameters),
    ("/.;/admin/secret", Rejected::Parameters),
    ("/..;/admin/secret", Rejected::Parameters),
    ("/x/..;/admin/secret", Rejected::Parameters),
    ("/x/..;a=b/admin/secret", Rejected::Parameters),
    ("/x/%2e%2e;/admin/secret", Rejected::Parameters),
    ("/x/.%2e;/admin/secret", Rejected::Parameters),
    ("/%2e;/admin/secret", Rejected::Parameters),
    ("/admin/x/..;/secret", Rejected::Parameters),
    ("/admin/.;/secret", Rejected::Parameters),
    ("/admin%3b/secret", Rejected::Parameters),
    ("/admin%3Bx/secret", Rejected::Parameters),
    ("/x/..%3b/admin/secret", Rejected::Parameters),
    ("/admin/secret%3B", Rejected::Parameters),
    ("/%61dmin;/secret", Rejected::Parameters),
    // Control characters.
    ("/admin/secret%00", Rejected::Control),
    ("/admin/secret%00.png", Rejected::Control),
    ("/admin%00/secret", Rejected::Control),
    ("/%00/admin/secret", Rejected::Control),
    ("/x/..%00/admin/secret", Rejected::Control),
    ("/admin/secret%0a", Rejected::Control),
    ("/admin/secret%0d%0a", Rejected::Control),
    ("/admin%09/secret", Rejected::Control),
    ("/admin/%7fsecret", Rejected::Control),
    ("/admin/secret%1F", Rejected::Control),
    // Broken and overlong escapes.
    ("/admin/secret%", Rejected::BrokenEscape),
    ("/admin/secret%2", Rejected::BrokenEscape),
    ("/%zzadmin/secret", Rejected::BrokenEscape),
    ("/%2gadmin/secret", Rejected::BrokenEscape),
    ("/%u002e%u002e/admin/secret", Rejected::BrokenEscape),
    ("/admin%u2215secret", Rejected::BrokenEscape),
    ("/%%32e/admin/secret", Rejected::BrokenEscape),
    ("/%%32%65/admin/secret", Rejected::BrokenEscape),
    ("/x/%+2e/admin/secret", Rejected::BrokenEscape),
    ("/%c0%ae%c0%ae/admin/secret", Rejected::NotUtf8),
    ("/%c0%ae/admin/secret", Rejected::NotUtf8),
    ("/x/%C0%AE%C0%AE/admin/secret", Rejected::NotUtf8),
    ("/%c0%2e/admin/secret", Rejected::NotUtf8),
    ("/%e0%80%ae/admin/secret", Rejected::NotUtf8),
    ("/%e0%80%ae%e0%80%ae/admin/secret", Rejected::NotUtf8),
    ("/%f0%80%80%ae/admin/secret", Rejected::NotUtf8),
    ("/%fc%80%80%80%80%ae/admin/secret", Rejected::NotUtf8),
    ("/admin%c0%afsecret", Rejected::NotUtf8),
    ("/admin%C1%9Csecret", Rejected::NotUtf8),
    ("/admin%e0%80%afsecret", Rejected::NotUtf8),
    ("/admin%f8%80%80%80%afsecret", Rejected::NotUtf8),
    ("/admin/secret%ff", Rejected::NotUtf8),
    ("/admin/%80secret", Rejected::NotUtf8),
    ("/admin/%ed%a0%80secret", Rejected::NotUtf8),
    ("/admin/%e9x%a9/secret", Rejected::NotUtf8),
    // What may not stand in a path at all.
    ("/admin/secret#", Rejected::Unescaped),
    ("/admin/secret#x", Rejected::Unescaped),
    ("/admin/secret#/../../public", Rejected::Unescaped),
    ("/admin /secret", Rejected::Unescaped),
    ("/admin/secret ", Rejected::Unescaped),
    ("/admin\t/secret", Rejected::Unescaped),
    ("/admin/secret\0", Rejected::Unescaped),
    ("/admin/secr\u{e9}t", Rejected::Unescaped),
    ("/admin\u{2215}secret", Rejected::Unescaped),
    ("/\u{ff0e}\u{ff0e}/admin/secret", Rejected::Unescaped),
    // What is no path.
    ("admin/secret", Rejected::NotAbsolute),
    ("../admin/secret", Rejected::NotAbsolute),
    ("%2fadmin/secret", Rejected::NotAbsolute),
    ("\\admin\\secret", Rejected::NotAbsolute),
    ("\\/..\\admin/secret", Rejected::NotAbsolute),
    ("\\%2e%2e\\admin/secret", Rejected::NotAbsolute),
    (";/admin/secret", Rejected::NotAbsolute),
    ("*", Rejected::NotAbsolute),
    ("", Rejected::NotAbsolute),
];

/// Paths that look like it, and that no server takes for it.
const OTHER: &[(&str, &str)] = &[
    ("/admin/secret/", "/admin/secret/"),
    ("/admin/secret/.", "/admin/secret/"),
    ("/admin/secret//", "/admin/secret/"),
    ("/admin/secret/x/..", "/admin/secret/"),
    ("/admin/secret/..", "/admin/"),
    ("/Admin/secret", "/Admin/secret"),
    ("/ADMIN/SECRET", "/ADMIN/SECRET"),
    ("/%41dmin/secret", "/Admin/secret"),
    ("/%2561dmin/secret", "/%2561dmin/secret"),
    ("/%252e%252e/admin/secret", "/%252e%252e/admin/secret"),
    ("/%252E/admin/secret", "/%252E/admin/secret"),
    ("/admin%252fsecret", "/admin%252fsecret"),
    ("/admin%255csecret", "/admin%255csecret"),
    ("/admin%25%32%66secret", "/admin%252fsecret"),
    ("/.../admin/secret", "/.../admin/secret"),
    ("/..x/admin/secret", "/..x/admin/secret"),
    ("/admin./secret", "/admin./secret"),
    ("/admin../secret", "/admin../secret"),
    ("/admin%20/secret", "/admin%20/secret"),
    ("/admin/secret%23", "/admin/secret%23"),
    ("/admin/secret%3f", "/admin/secret%3F"),
    ("/admin%e2%88%95secret", "/admin%E2%88%95secret"),
    ("/%ef%bc%8e/admin/secret", "/%EF%BC%8E/admin/secret"),
    ("/admin/secr%c3%a9t", "/admin/secr%C3%A9t"),
    ("/admin,x/secret", "/admin,x/secret"),
    ("/admin:x/secret", "/admin:x/secret"),
    ("/admin/secret.json", "/admin/secret.json"),
    ("/", "/"),
    ("/..", "/"),
    ("/./", "/"),
    ("//", "/"),
    ("/x/..", "/"),
];

/// How the most lenient of servers reads a path: parameters cut, escapes decoded, backslashes turned, slashes merged, dots
/// resolved.
fn read_leniently(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let bare: Vec<&str> = path
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default())
        .collect();
    let bare = bare.join("/").into_bytes();
    let mut bytes = Vec::new();
    let mut index = 0;
    while let Some(&byte) = bare.get(index) {
        let digits = bare
            .get(index + 1..index + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let (b'%', Some(value)) = (byte, value) {
            bytes.push(value);
            index += 3;
        } else {
            bytes.push(byte);
            index += 1;
        }
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    let cut = text.split('\0').next().unwrap_or_default();
    for segment in cut.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

#[test]
fn every_spelling_is_the_canonical_one_or_another_path_or_refused() {
    for spelling in SAME {
        let path = normalize(spelling, Mode::Strict);
        assert_eq!(path.as_deref(), Ok(CANONICAL), "{spelling}");
    }
    for (spelling, why) in REFUSED {
        assert_eq!(normalize(spelling, Mode::Strict), Err(*why), "{spelling}");
    }
    for (spelling, expected) in OTHER {
        let path = normalize(spelling, Mode::Strict);
        assert_eq!(path.as_deref(), Ok(*expected), "{spelling}");
        let read = read_leniently(expected);
        assert!(
            read != CANONICAL || expected.starts_with(CANONICAL),
            "{spelling}"
        );
    }
    let count = SAME.len() + REFUSED.len() + OTHER.len();
    assert!(count >= 200, "{count}");
}

#[test]
fn a_path_that_has_its_spelling_is_not_copied() {
    for path in [
        "/",
        "/a",
        "/a/b/c.txt",
        "/a/.well-known/b",
        "/a/..b/...",
        "/a%20b/%C3%A9",
        "/@scope/name:1,2+3=4!$&'()*~_-",
    ] {
        let normal = normalize(path, Mode::Strict);
        assert!(
            matches!(normal, Ok(Cow::Borrowed(same)) if same == path),
            "{path}"
        );
    }
}

const SLASH: Result<&str, Rejected> = Err(Rejected::EscapedSlash);
const PARAMETERS: Result<&str, Rejected> = Err(Rejected::Parameters);
const CONTROL: Result<&str, Rejected> = Err(Rejected::Control);
const NOT_UTF8: Result<&str, Rejected> = Err(Rejected::NotUtf8);
const UNESCAPED: Result<&str, Rejected> = Err(Rejected::Unescaped);
const BROKEN: Result<&str, Rejected> = Err(Rejected::BrokenEscape);
const NOT_ABSOLUTE: Result<&str, Rejected> = Err(Rejected::NotAbsolute);

type Row = (&'static str, [Result<&'static str, Rejected>; 5]);

/// Off, base, merged, decoded and merged, strict.
#[rustfmt::skip]
const MODES: &[Row] = &[
    ("/a/./b/../c", [Ok("/a/./b/../c"), Ok("/a/c"), Ok("/a/c"), Ok("/a/c"), Ok("/a/c")]),
    ("/%41%c3%a9", [Ok("/%41%c3%a9"), Ok("/A%C3%A9"), Ok("/A%C3%A9"), Ok("/A%C3%A9"), Ok("/A%C3%A9")]),
    ("/a\\b", [Ok("/a\\b"), Ok("/a/b"), Ok("/a/b"), Ok("/a/b"), Ok("/a/b")]),
    ("/a//b", [Ok("/a//b"), Ok("/a//b"), Ok("/a/b"), Ok("/a/b"), Ok("/a/b")]),
    ("/a//../b", [Ok("/a//../b"), Ok("/a/b"), Ok("/b"), Ok("/b"), Ok("/b")]),
    ("/a%2fb", [Ok("/a%2fb"), Ok("/a%2Fb"), Ok("/a%2Fb"), Ok("/a/b"), SLASH]),
    ("/a/..%5cb", [Ok("/a/..%5cb"), Ok("/a/..%5Cb"), Ok("/a/..%5Cb"), Ok("/b"), SLASH]),
    ("/a;b", [Ok("/a;b"), Ok("/a;b"), Ok("/a;b"), Ok("/a;b"), PARAMETERS]),
    ("/%00", [Ok("/%00"), CONTROL, CONTROL, CONTROL, CONTROL]),
    ("/%01", [Ok("/%01"), Ok("/%01"), Ok("/%01"), Ok("/%01"), CONTROL]),
    ("/%e9", [Ok("/%e9"), Ok("/%E9"), Ok("/%E9"), Ok("/%E9"), NOT_UTF8]),
    ("/\u{e9}", [Ok("/\u{e9}"), Ok("/\u{e9}"), Ok("/\u{e9}"), Ok("/\u{e9}"), UNESCAPED]),
    ("/%4", [Ok("/%4"), BROKEN, BROKEN, BROKEN, BROKEN]),
    ("/#", [UNESCAPED; 5]),
    ("a", [NOT_ABSOLUTE; 5]),
    ("/a/b", [Ok("/a/b"); 5]),
];

const ALL: [Mode; 5] = [
    Mode::Off,
    Mode::Base,
    Mode::MergeSlashes,
    Mode::DecodeAndMergeSlashes,
    Mode::Strict,
];

#[test]
fn modes_differ_as_documented() {
    for (path, expected) in MODES {
        for (mode, expected) in ALL.into_iter().zip(expected) {
            let normal = normalize(path, mode);
            assert_eq!(
                normal.as_deref(),
                expected.as_ref().copied(),
                "{path} {mode:?}"
            );
        }
    }
}

#[test]
fn what_can_get_around_no_rule_is_not_refused() {
    for path in ["/a;b/c", "/a%2Fb", "/a%E9"] {
        assert!(
            normalize(path, Mode::Auto.resolved(true)).is_err(),
            "{path}"
        );
        assert!(normalize(path, Mode::Auto).is_err(), "{path}");
        assert_eq!(
            normalize(path, Mode::Auto.resolved(false)).as_deref(),
            Ok(path)
        );
    }
    assert_eq!(
        normalize("//a/./b", Mode::Auto.resolved(false)).as_deref(),
        Ok("/a/b")
    );
    for mode in ALL {
        assert_eq!([mode.resolved(true), mode.resolved(false)], [mode, mode]);
    }
}

fn nasty() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "/",
        "//",
        ".",
        "..",
        "\\",
        "%2e",
        "%2E",
        "%2f",
        "%5c",
        "%25",
        "2e",
        "2f",
        "%",
        ";",
        "%3b",
        "%00",
        "%c0",
        "%ae",
        "%61",
        "admin",
        "secret",
        "x",
        "a",
        "#",
        "?",
        "*",
        " ",
        "\u{e9}",
        "%e2%88%95",
        "%41",
    ]);
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #[test]
    fn what_passes_is_read_alike_by_strict_and_lenient_servers(path in nasty()) {
        if let Ok(path) = normalize(&path, Mode::Strict) {
            let read = read_leniently(&path);
            // Escapes that remain are of characters that mean nothing in a path.
            let is_escaped = path.contains('%');
            prop_assert!(is_escaped || read == path.trim_end_matches('/') || path == "/", "{path} {read}");
        }
    }

    #[test]
    fn a_second_time_changes_nothing(path in nasty()) {
        for mode in ALL {
            if let Ok(once) = normalize(&path, mode) {
                let twice = normalize(&once, mode);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
            }
        }
    }

    #[test]
    fn no_spelling_hides_the_protected_path(path in nasty()) {
        if let Ok(path) = normalize(&path, Mode::Strict) {
            let read = read_leniently(&path);
            prop_assert!(read != CANONICAL || path.trim_end_matches('/') == CANONICAL, "{path}");
        }
    }
}

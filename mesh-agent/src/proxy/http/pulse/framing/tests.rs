//! Streams of requests, whole and in pieces.

use proptest::prelude::*;

use super::{Framing, Place};

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

/// Feeds the bytes in pieces of each size, and whole.
fn follow(text: &str) -> (Option<u64>, u64) {
    let mut results: Vec<_> = (1..40)
        .chain([text.len().max(1)])
        .map(|size| {
            let mut framing = Framing::new();
            for piece in text.as_bytes().chunks(size) {
                framing.follow(piece);
            }
            (framing.ambiguous, framing.heads)
        })
        .collect();
    results.dedup();
    assert_eq!(results.len(), 1, "{text:?} gave {results:?}");
    results[0]
}

#[test]
fn a_request_that_is_framed_twice_is_seen() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "TRANSFER-ENCODING:chunked\r\nX: y\r\ncontent-length:5\r\n",
        "transfer-encoding: chunked\ncontent-length: 0\n",
        "transfer-encoding:\t chunked \r\ncontent-length: \t7\t\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n0\r\n\r\n");
        assert_eq!(follow(&text), (Some(1), 1), "{fields}");
    }
}

#[test]
fn bodies_are_not_looked_at() {
    let inner = "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n";
    let sized = format!(
        "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    );
    assert_eq!(follow(&sized), (None, 1));
    let chunked = format!(
        "{CHUNKED}{:x};a=\"b\"\r\n{inner}\r\n0\r\nContent-Length: 3\r\n\r\n",
        inner.len()
    );
    assert_eq!(follow(&chunked), (None, 1));
}

#[test]
fn requests_are_counted_one_after_the_other() {
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc";
    let empty = "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n";
    let chunks = format!("{CHUNKED}3\r\nabc\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n");
    let twice = "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let all = format!("{get}{post}\r\n\r\n{empty}{chunks}{get}{twice}{get}");
    assert_eq!(follow(&all), (Some(6), 7));
}

#[test]
fn a_line_may_be_long() {
    let long = "y".repeat(5_000);
    let text = format!(
        "GET /{long} HTTP/1.1\r\nx: {long}\r\ncontent-length: 2\r\n\r\nabGET / HTTP/1.1\r\n\r\n"
    );
    assert_eq!(follow(&text), (None, 2));
}

#[test]
fn who_has_lost_the_way_trusts_nothing() {
    for bad in [
        "zz\r\n",
        "\r\n",
        "ffffffffffffffff\r\n",
        "-1\r\n",
        "11111111111111111\r\n",
        "3\nabc",
        "0\r\nx: y\n\nGET / HTTP/1.1\r\n",
        "0\r\n\n",
    ] {
        let (ambiguous, _) = follow(&format!("{CHUNKED}{bad}"));
        assert_eq!(ambiguous, Some(2), "{bad}");
    }
    let (ambiguous, _) = follow("POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n");
    assert_eq!(ambiguous, Some(1));
    let mut framing = Framing::new();
    framing.follow(b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n");
    assert_eq!(framing.place, Place::Lost);
}

/// A request as hyper accepts it, and whether it is framed twice.
fn any_request() -> impl Strategy<Value = (String, bool)> {
    let end = prop::sample::select(vec!["\r\n", "\n"]);
    let fields = prop::collection::vec(
        prop::sample::select(vec![
            "Host: a",
            "Cookie: b",
            "TE: trailers",
            "Content-Type: c",
            "X:",
        ]),
        0..4,
    );
    let chunks = prop::collection::vec("[ -~\r\n]{1,40}", 0..4);
    let extension = prop::sample::select(vec!["", ";x=\"y\"", " ", " ;x"]);
    let trailer = prop::sample::select(vec!["", "X-Sum: 1\r\n", "Content-Length: 9\r\n"]);
    (end, fields, 0..4, chunks, extension, trailer).prop_map(
        |(end, fields, kind, chunks, extension, trailer)| {
            let fields: Vec<_> = fields.iter().map(|field| [*field, end].concat()).collect();
            let fields = fields.concat();
            let whole = chunks.concat();
            let sized = format!("content-length:{}{end}", whole.len());
            let chunked = format!("Transfer-Encoding: chunked{end}");
            let pieces = chunks
                .iter()
                .map(|chunk| format!("{:X}{extension}\r\n{chunk}\r\n", chunk.len()));
            let pieces = format!(
                "{}0{extension}\r\n{trailer}\r\n",
                pieces.collect::<String>()
            );
            let (framing, body) = match kind {
                0 => (String::new(), String::new()),
                1 => (sized, whole),
                2 => (chunked, pieces),
                _ => (sized + &chunked, pieces),
            };
            (
                format!("POST / HTTP/1.1{end}{fields}{framing}{end}{body}"),
                kind == 3,
            )
        },
    )
}

proptest! {
    #[test]
    fn it_keeps_its_way_through_all_that_is_sound(
        requests in prop::collection::vec(any_request(), 1..6),
        size in 1_usize..200,
    ) {
        let text: String = requests.iter().map(|(text, _)| text.as_str()).collect();
        let first = requests.iter().position(|(_, is_twice)| *is_twice);
        let mut framing = Framing::new();
        for piece in text.as_bytes().chunks(size) {
            framing.follow(piece);
        }
        let expected = first.map(|index| u64::try_from(index).expect("few") + 1);
        prop_assert_eq!(framing.ambiguous, expected);
        prop_assert_eq!(framing.heads, u64::try_from(requests.len()).expect("few"));
        prop_assert_eq!(framing.place, Place::Head);
    }
}

//! The name that a TLS client asks for, read from its first message: a pure function. Nothing is decrypted.

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// TLS, for this name; or for none.
    Name(Option<String>),
    /// Not TLS, or not as it is written.
    Foreign,
    /// Too little to tell.
    Unsure,
}

/// Longest first message that is read, in bytes with the headers of its records. With a post-quantum key it has some
/// 2 KiB; large tickets make it larger.
pub(crate) const MAX_HELLO: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Longest record: RFC 8446, 5.1.
const MAX_RECORD: usize = 1 << 14;

/// Reads the name out of `first` (RFC 8446, 4.1.2 and 5.1; RFC 6066, 3).
pub(crate) fn server_name(first: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = Reader(first);
    loop {
        if let Some(hello) = complete(&message) {
            return hello;
        }
        // A message may be spread over records.
        match record(&mut rest) {
            Record::Part(part) => message.extend_from_slice(part),
            Record::Unsure if first.len() < MAX_HELLO => return Hello::Unsure,
            Record::Unsure | Record::Foreign => return Hello::Foreign,
        }
    }
}

enum Record<'a> {
    Part(&'a [u8]),
    Foreign,
    Unsure,
}

fn record<'a>(rest: &mut Reader<'a>) -> Record<'a> {
    // What is there is judged before the rest is awaited.
    if rest.0.first().is_some_and(|kind| *kind != HANDSHAKE)
        || rest.0.get(1).is_some_and(|major| *major != 3)
    {
        return Record::Foreign;
    }
    let mut ahead = Reader(rest.0);
    let Some(length) = ahead.take(3).and_then(|_| ahead.length(2)) else {
        return Record::Unsure;
    };
    if length == 0 || length > MAX_RECORD {
        return Record::Foreign;
    }
    match ahead.take(length) {
        Some(part) => {
            *rest = ahead;
            Record::Part(part)
        }
        None => Record::Unsure,
    }
}

/// Judges a message, once all of it is there.
fn complete(message: &[u8]) -> Option<Hello> {
    let mut message = Reader(message);
    if message.byte()? != CLIENT_HELLO {
        return Some(Hello::Foreign);
    }
    let length = message.length(3)?;
    if length > MAX_HELLO {
        return Some(Hello::Foreign);
    }
    let body = message.take(length)?;
    Some(in_body(body).unwrap_or(Hello::Foreign))
}

/// The name in the body of a client's hello; `None`: it is not well-formed.
fn in_body(body: &[u8]) -> Option<Hello> {
    let mut body = Reader(body);
    body.take(2 + 32)?;
    for prefix in [1, 2, 1] {
        // Session, cipher suites, compression.
        body.vector(prefix)?;
    }
    if body.0.is_empty() {
        return Some(Hello::Name(None));
    }
    let mut extensions = Reader(body.vector(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.vector(2)?;
        if kind == SERVER_NAME {
            return in_names(content);
        }
    }
    Some(Hello::Name(None))
}

fn in_names(content: &[u8]) -> Option<Hello> {
    let mut names = Reader(Reader(content).vector(2)?);
    while !names.0.is_empty() {
        let kind = names.byte()?;
        let name = names.vector(2)?;
        if kind == HOST_NAME {
            let is_name = |byte: &u8| byte.is_ascii_graphic();
            if name.is_empty() || !name.iter().all(is_name) {
                return None;
            }
            let name = String::from_utf8_lossy(name).into_owned();
            return Some(Hello::Name(Some(name)));
        }
    }
    Some(Hello::Name(None))
}

/// Takes bytes off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A length of `size` bytes.
    fn length(&mut self, size: usize) -> Option<usize> {
        let bytes = self.take(size)?.iter();
        Some(bytes.fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    /// What follows a length of `size` bytes.
    fn vector(&mut self, size: usize) -> Option<&'a [u8]> {
        let length = self.length(size)?;
        self.take(length)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(size: usize, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[4 - size..], content].concat()
    }

    /// The first message of a client that asks for `name`, in records of at most `record` bytes.
    pub(crate) fn hello(name: Option<&str>, record: usize) -> Vec<u8> {
        let mut extensions = [&[0, 43][..], &vector(2, &[2, 3, 4])].concat();
        if let Some(name) = name {
            let entry = [&[HOST_NAME][..], &vector(2, name.as_bytes())].concat();
            extensions.extend([0, 0]);
            extensions.extend(vector(2, &vector(2, &entry)));
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector(1, &[1; 32]),
            &vector(2, &[0x13, 1]),
            &vector(1, &[0]),
            &vector(2, &extensions),
        ]
        .concat();
        let message = [&[CLIENT_HELLO][..], &vector(3, &body)].concat();
        let records = message.chunks(record);
        records
            .flat_map(|part| [&[HANDSHAKE, 3, 1][..], &vector(2, part)].concat())
            .collect()
    }

    #[test]
    fn the_name_is_found_however_the_message_is_cut() {
        for record in [1, 7, 100, 10_000] {
            let bytes = hello(Some("a.example"), record);
            let name = Some("a.example".to_owned());
            assert_eq!(server_name(&bytes), Hello::Name(name), "{record}");
            for length in 0..bytes.len() {
                assert_eq!(server_name(&bytes[..length]), Hello::Unsure, "{length}");
            }
        }
        assert_eq!(server_name(&hello(None, 10_000)), Hello::Name(None));
    }

    #[test]
    fn what_is_not_tls_is_told_by_its_first_bytes() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x02",
            b"\x15\x03\x01",
            b"\x16\x03\x01\0\0",
        ] {
            assert_eq!(server_name(bytes), Hello::Foreign, "{bytes:?}");
        }
        let mut server = hello(Some("a"), 10_000);
        server[5] = 2;
        assert_eq!(server_name(&server), Hello::Foreign);
        assert_eq!(server_name(&hello(Some("a\0b"), 10_000)), Hello::Foreign);
    }

    #[test]
    fn a_message_without_end_is_not_read_for_ever() {
        let mut endless = vec![HANDSHAKE, 3, 1, 0x40, 0];
        endless.resize(MAX_HELLO, 0);
        assert_eq!(server_name(&endless), Hello::Foreign);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            place in 0..120_usize,
            byte in any::<u8>(),
        ) {
            drop(server_name(&bytes));
            let mut bytes = hello(Some("a.example"), 50);
            if let Some(place) = bytes.get_mut(place) {
                *place = byte;
            }
            drop(server_name(&bytes));
        }
    }
}

//! What the first bytes of a client or a server look like: pure functions.

/// What was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sniff {
    /// A request line of HTTP/1.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// Neither.
    Opaque,
    /// Too little to tell.
    Unsure,
}

impl Sniff {
    /// The word in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Opaque => "opaque",
            Self::Unsure => "unsure",
        }
    }
}

/// With so many bytes something can always be said.
pub(crate) const ENOUGH: usize = 4096;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest method that counts as one.
const MAX_METHOD: usize = 32;

/// So many bytes tell whether a server that speaks unasked speaks HTTP: a frame header of HTTP/2.
pub(crate) const GREETING: usize = 9;

/// Whether a server that speaks unasked speaks HTTP: in version 2 it may announce its settings at once, in version 1
/// it says that it does not wait any longer (408).
pub(crate) fn is_http_server(first: &[u8]) -> bool {
    const SETTINGS: u8 = 4;
    match first {
        [_, _, _, kind, flags, stream @ ..] if *kind == SETTINGS => {
            *flags == 0 && *stream == [0; 4]
        }
        _ => first.starts_with(b"HTTP/1."),
    }
}

/// Judges the first bytes of a client.
pub(crate) fn sniff(first: &[u8]) -> Sniff {
    if PREFACE.starts_with(first) {
        return if first.len() == PREFACE.len() {
            Sniff::Http2
        } else {
            Sniff::Unsure
        };
    }
    if first.starts_with(PREFACE) {
        return Sniff::Http2;
    }
    // Clients may send an empty line first: RFC 9112, 2.2.
    let line = first.strip_prefix(b"\r\n").unwrap_or(first);
    sniff_request_line(line)
}

fn sniff_request_line(line: &[u8]) -> Sniff {
    let method = line.iter().take_while(|byte| is_token(**byte)).count();
    if method > MAX_METHOD {
        return Sniff::Opaque;
    }
    match line.get(method) {
        None => return Sniff::Unsure,
        Some(b' ') if method > 0 => {}
        Some(_) => return Sniff::Opaque,
    }
    // `GET key` is a command of other protocols too: only the version at the end of the line tells.
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        let is_text = line.iter().all(|byte| *byte >= b' ' || *byte == b'\r');
        return match (is_text, line.len() >= ENOUGH) {
            (true, true) => Sniff::Http1,
            (true, false) => Sniff::Unsure,
            (false, _) => Sniff::Opaque,
        };
    };
    let line = line.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") {
        Sniff::Http1
    } else {
        Sniff::Opaque
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_'
                | b'!'
                | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'.'
                | b'^'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::{ENOUGH, GREETING, PREFACE, Sniff, is_http_server, sniff};

    #[test]
    fn a_request_line_is_http_1() {
        assert_eq!(sniff(b"GET / HTTP/1.1\r\n"), Sniff::Http1);
        assert_eq!(sniff(b"\r\nOPTIONS * HTTP/1.0\nHost: a"), Sniff::Http1);
        assert_eq!(sniff(b"CONNECT a:1 HTTP/1.1\r\n"), Sniff::Http1);
        assert_eq!(sniff(b"M-SEARCH /x HTTP/1.1\r\n"), Sniff::Http1);
    }

    #[test]
    fn the_preface_is_http_2_and_its_beginning_is_awaited() {
        assert_eq!(sniff(PREFACE), Sniff::Http2);
        assert_eq!(sniff(&[PREFACE, b"more"].concat()), Sniff::Http2);
        for length in 0..PREFACE.len() {
            assert_eq!(sniff(&PREFACE[..length]), Sniff::Unsure, "{length}");
        }
    }

    #[test]
    fn other_protocols_are_opaque() {
        assert_eq!(sniff(b"\x16\x03\x01\x02\x00"), Sniff::Opaque, "TLS");
        assert_eq!(sniff(b"PING\r\n"), Sniff::Opaque, "Redis inline");
        assert_eq!(sniff(b"GET key\r\n"), Sniff::Opaque, "memcached");
        assert_eq!(sniff(b"*1\r\n$4\r\nPING\r\n"), Sniff::Opaque, "Redis");
        assert_eq!(
            sniff(b"\x00\x00\x00\x08\x04\xd2\x16\x2f"),
            Sniff::Opaque,
            "PostgreSQL"
        );
        assert_eq!(sniff(b"SSH-2.0-OpenSSH_9\r\n"), Sniff::Opaque, "SSH");
        assert_eq!(sniff(b"GET / HTTP/9.9\r\n"), Sniff::Opaque);
    }

    #[test]
    fn servers_of_http_are_told_from_others_that_speak_first() {
        let is_http = |first: &[u8]| is_http_server(first.get(..GREETING).unwrap_or(first));
        assert!(is_http(b"HTTP/1.1 408 Request Timeout\r\n"));
        assert!(is_http(b"HTTP/1.0 408"));
        assert!(
            is_http(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
            "SETTINGS"
        );
        assert!(is_http(b"\0\0\0\x04\0\0\0\0\0"), "empty SETTINGS");
        assert!(!is_http(b"\0\0\0\x04\x01\0\0\0\0"), "an answer to SETTINGS");
        assert!(!is_http(b"\x4a\0\0\0\x0a8.0.36\0"), "MySQL");
        assert!(!is_http(b"220 mail.example ESMTP\r\n"), "SMTP");
        assert!(!is_http(b"SSH-2.0-OpenSSH_9\r\n"), "SSH");
        assert!(!is_http(b"HTTP"));
    }

    #[test]
    fn a_long_request_line_is_http_1_at_the_latest_when_the_buffer_is_full() {
        let mut line = b"GET /".to_vec();
        line.resize(ENOUGH - 1, b'a');
        assert_eq!(sniff(&line), Sniff::Unsure);
        line.push(b'a');
        assert_eq!(sniff(&line), Sniff::Http1);
    }
}

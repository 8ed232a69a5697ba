//! Hosts: one spelling for each, so that a rule about a host holds however a client writes it.
//!
//! Letters become small, a dot at the end and an empty port go, IPv6 addresses are written as RFC 5952 wants it. Anything
//! but letters, digits, `-`, `_`, dots and a port is refused: user information, commas, spaces, escapes, a port of zero or
//! with leading zeros, other scripts (their names travel as `xn--`).

use std::net::Ipv6Addr;
use std::sync::{Mutex, PoisonError};

use http::uri::Authority;

/// Longest name of the DNS as text: RFC 1035, 2.3.4.
const MAX_NAME: usize = 253;

/// A host and maybe a port, found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target<'t> {
    host: Host<'t>,
    /// The port, if one is written.
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host<'t> {
    /// Without the dot at its end; letters as they came.
    Name(&'t str),
    Ipv6(Ipv6Addr),
}

impl<'t> Target<'t> {
    /// Reads `host[:port]`.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            (Host::Ipv6(address.parse().ok()?), port)
        } else {
            let end = text.find(':').unwrap_or(text.len());
            let (name, port) = text.split_at(end);
            (Host::Name(parse_name(name)?), port)
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(digits) => Some(parse_port(digits)?),
        };
        Some(Self { host, port })
    }

    /// Whether both name the same host and port, where `default` is meant if none is written.
    pub(super) fn is_same(&self, other: &Self, default: u16) -> bool {
        let is_same_host = match (&self.host, &other.host) {
            (Host::Name(one), Host::Name(two)) => one.eq_ignore_ascii_case(two),
            (one, two) => one == two,
        };
        is_same_host && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }

    /// Whether `text`, from which it was read, is its one spelling.
    fn is_canonical(&self, text: &str) -> bool {
        match self.host {
            Host::Name(name) => {
                let end = text.get(name.len()..).unwrap_or_default();
                !name.bytes().any(|byte| byte.is_ascii_uppercase())
                    && (end.is_empty() || (self.port.is_some() && end.starts_with(':')))
            }
            Host::Ipv6(_) => text == self.spell(),
        }
    }

    fn spell(&self) -> String {
        let mut text = match self.host {
            Host::Name(name) => name.to_ascii_lowercase(),
            Host::Ipv6(address) => format!("[{address}]"),
        };
        if let Some(port) = self.port {
            text.push(':');
            text.push_str(&port.to_string());
        }
        text
    }

    /// The one spelling. `text` is what it was read from, and is not copied where it is that already.
    pub(super) fn canonical(&self, text: &Authority) -> Option<Authority> {
        if self.is_canonical(text.as_str()) {
            return Some(text.clone());
        }
        Authority::try_from(self.spell()).ok()
    }
}

/// The host of an authority that is in its one spelling, without the port.
pub(super) fn host(canonical: &Authority) -> &str {
    let text = canonical.as_str();
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if is_port { host } else { text }
}

/// The host that a connection has named last. Most name one only: what was found sound once is so again.
#[derive(Debug, Default)]
pub(crate) struct LastHost(Mutex<Option<Authority>>);

impl LastHost {
    /// The host of this text, if it is the last one.
    pub(super) fn recall(&self, text: &[u8]) -> Option<Authority> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |last: &&Authority| last.as_str().as_bytes() == text;
        last.as_ref().filter(is_same).cloned()
    }

    /// Remembers a host that is in its one spelling. A copy: what was received may be a part of a large buffer.
    pub(super) fn remember(&self, canonical: &Authority) {
        let copy = Authority::try_from(canonical.as_str()).ok();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = copy;
    }
}

fn parse_name(name: &str) -> Option<&str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    // As if a dot stood before it.
    let mut last = b'.';
    let is_sound = name.bytes().all(|byte| {
        let before = std::mem::replace(&mut last, byte);
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_')
            || (byte == b'.' && before != b'.')
    });
    let is_name = is_sound && last != b'.' && name.len() <= MAX_NAME;
    is_name.then_some(name)
}

fn parse_port(digits: &str) -> Option<u16> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    is_number.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use http::uri::Authority;

    use super::{LastHost, Target, host};

    fn canonical(text: &str) -> Option<String> {
        let target = Target::parse(text)?;
        let authority = Authority::try_from(text).ok()?;
        Some(target.canonical(&authority)?.to_string())
    }

    #[test]
    fn each_host_has_one_spelling() {
        for (text, expected) in [
            ("web", "web"),
            ("web:80", "web:80"),
            ("web.shop:8080", "web.shop:8080"),
            ("WEB.shop", "web.shop"),
            ("web.shop.", "web.shop"),
            ("Web.Shop.:8080", "web.shop:8080"),
            ("web:", "web"),
            ("web.:", "web"),
            ("my_web-1", "my_web-1"),
            ("10.0.0.1:65535", "10.0.0.1:65535"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]:80"),
            ("[FD00:0::1]:80", "[fd00::1]:80"),
            ("[0:0:0:0:0:0:0:1]:", "[::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
            let expected = Authority::try_from(expected).expect("an authority");
            assert_eq!(host(&expected), expected.host(), "{expected}");
        }
    }

    #[test]
    fn only_the_host_that_was_named_last_is_recalled() {
        let last = LastHost::default();
        assert_eq!(last.recall(b"web"), None);
        for name in ["web", "web:80"] {
            last.remember(&Authority::from_static(name));
            assert_eq!(
                last.recall(name.as_bytes()),
                Some(Authority::from_static(name))
            );
        }
        for other in ["web", "WEB:80", "web:8", "web:800", ""] {
            assert_eq!(last.recall(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ".",
            ":80",
            "a,b",
            "a b",
            "me@a",
            "a@b:80",
            "a:0",
            "a:080",
            "a:65536",
            "a:http",
            "a:80:80",
            "a:-1",
            "a:+80",
            "a..b",
            "a..",
            ".a",
            "a%2eb",
            "a/b",
            "a\\b",
            "a;b",
            "a?b",
            "b\u{fc}cher",
            "[::1",
            "::1",
            "[::1]80",
            "[::g]",
            "[fe80::1%25eth0]",
            "[]",
            "[127.0.0.1]",
            "a\0",
        ] {
            assert_eq!(Target::parse(text), None, "{text}");
        }
        assert_eq!(Target::parse(&"a".repeat(254)), None);
    }

    #[test]
    fn case_a_last_dot_and_the_default_port_make_no_difference() {
        let is_same = |one, two| {
            let (one, two) = (Target::parse(one), Target::parse(two));
            one.expect("a host").is_same(&two.expect("a host"), 80)
        };
        assert!(is_same("web", "WEB.:80"));
        assert!(is_same("[::1]:80", "[0::1]"));
        assert!(!is_same("web", "web:8080"));
        assert!(!is_same("web", "web2"));
        assert!(!is_same("[::1]", "web"));
    }
}

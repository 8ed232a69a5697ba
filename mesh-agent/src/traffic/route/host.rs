//! Hosts that routes are for: one name, or all names below one.

use std::borrow::Cow;
use std::fmt;

/// A host of a route, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name.
    Exact(Box<str>),
    /// Every name that ends in this, which begins with a dot; any number of labels may stand before it.
    Wildcard(Box<str>),
}

impl HostPattern {
    /// Reads `NAME` or `*.NAME`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = normalise(text);
        match text.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') => Self::Wildcard(suffix.into()),
            _ => Self::Exact(text.into()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A name as names are compared: in lower case and without the dot of the root.
#[must_use]
pub fn normalise(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The suffixes of a host that a wildcard could stand for, longest first; each begins with a dot.
pub fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.bytes()
        .enumerate()
        .filter(|(at, byte)| *byte == b'.' && *at > 0)
        .filter_map(|(at, _)| host.get(at..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_come_longest_first() {
        let all: Vec<_> = suffixes("a.b.c").collect();
        assert_eq!(all, [".b.c", ".c"]);
        assert_eq!(suffixes(".a").count(), 0, "nothing stands before it");
    }

    #[test]
    fn case_and_the_last_dot_make_no_difference() {
        assert_eq!(HostPattern::new("WEB.shop."), HostPattern::new("web.shop"));
        let wildcard = HostPattern::new("*.Shop");
        assert_eq!(wildcard, HostPattern::Wildcard(".shop".into()));
    }
}

//! The fields of a request, as rules and policies name them.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// What a request says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The host that it names, with the port if it names one: what `host` says, or `:authority` of HTTP/2, in its one
    /// spelling.
    pub authority: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// The value of a field; several are combined (RFC 9110, 5.2; for cookies RFC 9113, 8.2.3). That of `host` is the
    /// authority, which HTTP/2 sends in another place.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
        if *name == header::HOST {
            return self.authority.map(|it| Cow::Borrowed(it.as_bytes()));
        }
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        let Some(second) = values.next() else {
            return Some(Cow::Borrowed(first.as_bytes()));
        };
        let separator: &[u8] = if name == header::COOKIE { b"; " } else { b", " };
        let mut combined = first.as_bytes().to_vec();
        for value in std::iter::once(second).chain(values) {
            combined.extend_from_slice(separator);
            combined.extend_from_slice(HeaderValue::as_bytes(value));
        }
        Some(Cow::Owned(combined))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: Fields<'_>, name: &'static str, expected: Option<&str>) {
        let found = fields.get(&HeaderName::from_static(name));
        assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{name}");
    }

    #[test]
    fn several_values_of_a_field_are_combined() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        headers.append("cookie", HeaderValue::from_static("a=1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        let fields = Fields {
            headers: &headers,
            authority: None,
        };
        check(fields, "x-a", Some("1, 2"));
        check(fields, "cookie", Some("a=1; b=2"));
        check(fields, "x-b", None);
    }

    #[test]
    fn the_host_is_the_authority_in_its_one_spelling() {
        let mut headers = HeaderMap::new();
        headers.append("host", HeaderValue::from_static("WEB."));
        let authority = Some("web");
        let nothing = HeaderMap::new();
        for (headers, authority) in [
            (&headers, authority),
            (&nothing, authority),
            (&headers, None),
        ] {
            check(Fields { headers, authority }, "host", authority);
        }
    }
}

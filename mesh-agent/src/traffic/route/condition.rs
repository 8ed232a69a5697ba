//! What a request must be, apart from its path.

use std::borrow::Cow;

use http::Method;
use http::header::HeaderName;

use super::Request;
use super::text::TextMatch;

/// All of these must hold.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// It is a gRPC call.
    pub is_grpc: bool,
    /// It has this method.
    pub method: Option<Method>,
    /// It has these headers.
    pub headers: Vec<(HeaderName, TextMatch)>,
    /// It has these query parameters.
    pub query: Vec<(Box<str>, TextMatch)>,
}

impl Conditions {
    /// Whether they hold for every request.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.is_grpc && self.method.is_none() && self.headers.is_empty() && self.query.is_empty()
    }

    /// Whether they hold for `request`.
    #[must_use]
    pub fn hold(&self, request: &Request<'_>) -> bool {
        (!self.is_grpc || request.is_grpc)
            && self
                .method
                .as_ref()
                .is_none_or(|method| method == request.method)
            && self
                .headers
                .iter()
                .all(|(name, wanted)| has_header(request, name, wanted))
            && self
                .query
                .iter()
                .all(|(name, wanted)| has_parameter(request.query, name, wanted))
    }
}

fn has_header(request: &Request<'_>, name: &HeaderName, wanted: &TextMatch) -> bool {
    let value = request.field(name);
    value.is_some_and(|value| wanted.is_match(&value))
}

fn has_parameter(query: Option<&str>, name: &str, wanted: &TextMatch) -> bool {
    parameter(query, name).is_some_and(|value| wanted.is_match(&value))
}

/// The first value of a query parameter, decoded.
#[must_use]
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, [u8]>> {
    query?.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode(found) == *name.as_bytes()).then(|| decode(value))
    })
}

/// Takes the percent-encoding off (RFC 3986, 2.1). What is no encoding stays as it is, and so does `+`.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let encoded = match (first, after) {
            (b'%', [high, low, after @ ..]) => digit(*high)
                .zip(digit(*low))
                .map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = encoded.unwrap_or((*first, after));
        decoded.push(byte);
        rest = after;
    }
    Cow::Owned(decoded)
}

fn digit(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_parameter_counts_and_is_decoded() {
        let find = |query, name| {
            let value = parameter(Some(query), name)?;
            Some(String::from_utf8_lossy(&value).into_owned())
        };
        assert_eq!(find("a=1&a=2", "a").as_deref(), Some("1"));
        assert_eq!(find("b&a=x%20y%3D", "a").as_deref(), Some("x y="));
        assert_eq!(find("b&a=x", "b").as_deref(), Some(""));
        assert_eq!(find("%61=1", "a").as_deref(), Some("1"));
        assert_eq!(find("a=%zz%4", "a").as_deref(), Some("%zz%4"));
        assert_eq!(find("a=1+1", "a").as_deref(), Some("1+1"));
        assert_eq!(find("ab=1", "a"), None);
    }
}

//! What an endpoint is asked for instead of what the client asked for.

use http::uri::{Authority, PathAndQuery};

use crate::state::route::{PathModifier, PathModifierType, UrlRewrite};

/// A new path for requests.
#[derive(Clone, Debug)]
pub enum NewPath {
    /// This one.
    Full(Box<str>),
    /// This, without a slash at its end, in place of the prefix that matched.
    Prefix(Box<str>),
}

/// Changes host or path of requests. The query stays.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// The host that the endpoint is asked for.
    pub host: Option<Authority>,
    /// The path.
    pub path: Option<NewPath>,
}

impl NewPath {
    pub(super) fn new(from: &PathModifier) -> Result<Self, String> {
        match from.kind {
            PathModifierType::ReplaceFullPath => {
                let path = from.replace_full_path.as_deref();
                let path = path.ok_or("replaceFullPath is missing")?;
                Ok(Self::Full(checked(path)?.into()))
            }
            PathModifierType::ReplacePrefixMatch => {
                let path = from.replace_prefix_match.as_deref();
                let path = path.ok_or("replacePrefixMatch is missing")?;
                let path = checked(path)?;
                Ok(Self::Prefix(path.strip_suffix('/').unwrap_or(path).into()))
            }
        }
    }

    /// The path that takes the place of `path`, of which `prefix` bytes have matched, with the query.
    #[must_use]
    pub fn apply(&self, path: &str, prefix: Option<usize>, query: Option<&str>) -> String {
        let mut new = match self {
            Self::Full(path) => path.to_string(),
            Self::Prefix(replacement) => {
                let rest = prefix.and_then(|prefix| path.get(prefix..)).unwrap_or(path);
                format!("{replacement}{rest}")
            }
        };
        if new.is_empty() {
            new.push('/');
        }
        if let Some(query) = query {
            new.push('?');
            new.push_str(query);
        }
        new
    }
}

/// A path as it may stand in a request; empty, it leads to the root.
fn checked(path: &str) -> Result<&str, String> {
    if path.is_empty() {
        return Ok(path);
    }
    if !path.starts_with('/') || path.contains(['?', '#']) {
        return Err(format!("{path} is no path"));
    }
    PathAndQuery::try_from(path)
        .map(|_| path)
        .map_err(|error| format!("{path}: {error}"))
}

impl Rewrite {
    pub(super) fn new(from: &UrlRewrite) -> Result<Self, String> {
        let host = from.hostname.as_deref().map(|host| {
            let parsed = Authority::try_from(host);
            parsed.map_err(|error| format!("{host}: {error}"))
        });
        Ok(Self {
            host: host.transpose()?,
            path: from.path.as_ref().map(NewPath::new).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_by_segments() {
        // The table of `HTTPPathModifier` in the Gateway API.
        for (path, replacement, expected) in [
            ("/foo/bar", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/xyz/", "/xyz/bar"),
            ("/foo", "/xyz", "/xyz"),
            ("/foo/", "/xyz", "/xyz/"),
            ("/foo/bar", "", "/bar"),
            ("/foo/", "", "/"),
            ("/foo", "", "/"),
            ("/foo/", "/", "/"),
            ("/foo", "/", "/"),
        ] {
            let path_modifier = PathModifier {
                kind: PathModifierType::ReplacePrefixMatch,
                replace_full_path: None,
                replace_prefix_match: Some(replacement.to_owned()),
            };
            let new = NewPath::new(&path_modifier).unwrap();
            assert_eq!(
                new.apply(path, Some(4), None),
                expected,
                "{path} {replacement}"
            );
        }
    }

    #[test]
    fn the_query_stays_and_is_not_made() {
        let new = |text: &str| {
            NewPath::new(&PathModifier {
                kind: PathModifierType::ReplaceFullPath,
                replace_full_path: Some(text.to_owned()),
                replace_prefix_match: None,
            })
        };
        assert_eq!(new("/a").unwrap().apply("/x", None, Some("q=1")), "/a?q=1");
        assert_eq!(new("").unwrap().apply("/x", None, Some("q=1")), "/?q=1");
        for bad in ["a", "/a?b", "/a#b", "/a b"] {
            assert!(new(bad).is_err(), "{bad}");
        }
    }
}

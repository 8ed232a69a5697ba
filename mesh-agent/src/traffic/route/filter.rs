//! What is done to requests and responses on their way, compiled.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::compiled;
use super::cors::Cors;
use super::redirect::Redirect;
use super::rewrite::Rewrite;
use super::split::Target;
use crate::state::reference::Referrer;
use crate::state::route::{
    FilterType, HeaderModifier, HttpFilter, PathModifierType, RequestMirror,
};

/// The filters of a rule or of one of its backends.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Changes headers of requests.
    pub request: Option<HeaderEdits>,
    /// Changes headers of responses.
    pub response: Option<HeaderEdits>,
    /// Sends the client elsewhere.
    pub redirect: Option<Redirect>,
    /// Asks the endpoint for something else.
    pub rewrite: Option<Rewrite>,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
    /// Requests from other origins.
    pub cors: Option<Cors>,
}

/// Changes to headers.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

/// Sends copies of requests elsewhere.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Who gets them; absent: a reference to what cannot take them.
    pub target: Option<Target>,
    numerator: u32,
    denominator: u32,
}

impl HeaderEdits {
    fn new(from: &HeaderModifier) -> Result<Self, String> {
        let pairs = |list: &[crate::state::route::Header]| {
            let pairs = list.iter().map(|header| {
                let value = HeaderValue::from_str(&header.value)
                    .map_err(|error| format!("{}: {error}", header.name))?;
                Ok((name(&header.name)?, value))
            });
            pairs.collect::<Result<Vec<_>, String>>()
        };
        Ok(Self {
            set: pairs(&from.set)?,
            add: pairs(&from.add)?,
            remove: from
                .remove
                .iter()
                .map(|it| name(it))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The headers that it changes.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let pairs = self.set.iter().chain(&self.add);
        pairs.map(|(name, _)| name).chain(&self.remove)
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// A name that a filter may change.
fn name(text: &str) -> Result<HeaderName, String> {
    let name =
        HeaderName::from_bytes(text.as_bytes()).map_err(|error| format!("{text}: {error}"))?;
    if name == header::HOST {
        return Err("host: changed by the filter URLRewrite".to_owned());
    }
    if FRAMING.contains(&name) {
        return Err(format!(
            "{name}: says how a message is framed, which no filter may change"
        ));
    }
    Ok(name)
}

/// Headers by which a message is framed or its connection is run (RFC 9110, 7.6.1; RFC 9112, 6).
const FRAMING: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

impl Mirror {
    fn new(wanted: &RequestMirror, from: Referrer<'_>) -> Result<Self, String> {
        let (numerator, denominator) = match (wanted.percent, wanted.fraction) {
            (Some(_), Some(_)) => return Err("both percent and fraction".to_owned()),
            (Some(percent), None) => (percent, 100),
            (None, Some(fraction)) => (fraction.numerator, fraction.denominator),
            (None, None) => (1, 1),
        };
        if denominator == 0 || numerator > denominator {
            return Err(format!("{numerator}/{denominator} is no share"));
        }
        Ok(Self {
            target: compiled::target(from, &(&wanted.backend_ref).into()),
            numerator,
            denominator,
        })
    }

    /// Whether a request is copied, by a random number.
    #[must_use]
    pub fn takes(&self, random: u32) -> bool {
        (u64::from(random) * u64::from(self.denominator)) >> 32 < u64::from(self.numerator)
    }

    /// The share that is copied, for people.
    #[must_use]
    pub const fn share(&self) -> (u32, u32) {
        (self.numerator, self.denominator)
    }
}

/// What filters are compiled for.
pub(super) struct Compile<'a> {
    /// That of the route.
    pub(super) from: Referrer<'a>,
    /// Every match of the rule is one of a path prefix.
    pub(super) has_prefix: bool,
}

/// What is wrong with a filter, and where below the list.
type Problems = Vec<(String, String)>;

impl Compile<'_> {
    /// Compiles a list; `None` where it is empty.
    pub(super) fn filters(&self, list: &[HttpFilter]) -> Result<Option<Box<Filters>>, Problems> {
        if list.is_empty() {
            return Ok(None);
        }
        let mut filters = Filters::default();
        let mut problems = Problems::new();
        for (index, filter) in list.iter().enumerate() {
            if let Err(message) = self.add(&mut filters, filter) {
                problems.push((format!("[{index}]"), message));
            }
        }
        if filters.redirect.is_some() && filters.rewrite.is_some() {
            problems.push((
                String::new(),
                "both RequestRedirect and URLRewrite".to_owned(),
            ));
        }
        if problems.is_empty() {
            Ok(Some(Box::new(filters)))
        } else {
            Err(problems)
        }
    }

    fn add(&self, filters: &mut Filters, from: &HttpFilter) -> Result<(), String> {
        match from.kind {
            FilterType::RequestHeaderModifier => {
                let spec = given(from.request_header_modifier.as_ref())?;
                once(&mut filters.request, HeaderEdits::new(spec)?)
            }
            FilterType::ResponseHeaderModifier => {
                let spec = given(from.response_header_modifier.as_ref())?;
                once(&mut filters.response, HeaderEdits::new(spec)?)
            }
            FilterType::RequestMirror => {
                let spec = given(from.request_mirror.as_ref())?;
                filters.mirrors.push(Mirror::new(spec, self.from)?);
                Ok(())
            }
            FilterType::RequestRedirect => {
                let spec = given(from.request_redirect.as_ref())?;
                self.check(spec.path.as_ref())?;
                once(&mut filters.redirect, Redirect::new(spec)?)
            }
            FilterType::UrlRewrite => {
                let spec = given(from.url_rewrite.as_ref())?;
                self.check(spec.path.as_ref())?;
                once(&mut filters.rewrite, Rewrite::new(spec)?)
            }
            FilterType::Cors => {
                let spec = given(from.cors.as_ref())?;
                once(&mut filters.cors, Cors::new(spec)?)
            }
        }
    }

    fn check(&self, path: Option<&crate::state::route::PathModifier>) -> Result<(), String> {
        match path {
            Some(path) if path.kind == PathModifierType::ReplacePrefixMatch && !self.has_prefix => {
                Err("ReplacePrefixMatch needs matches of the type PathPrefix".to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn given<T>(spec: Option<&T>) -> Result<&T, String> {
    spec.ok_or_else(|| "the field that the type names is missing".to_owned())
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err("a filter of this type may stand there once".to_owned()),
    }
}

//! The matches of one path, in order of precedence: the first whose conditions hold wins.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::header::HeaderName;

use super::Request;
use super::condition::Conditions;
use super::text::TextMatch;

/// A match of a route in the table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Index of the route in the table.
    pub(super) route: u32,
    /// Index of the rule in the route.
    pub(super) rule: u32,
    /// Absent: it holds for every request with this path.
    pub(super) conditions: Option<Arc<Conditions>>,
}

impl Entry {
    pub(super) fn holds(&self, request: &Request<'_>) -> bool {
        self.conditions
            .as_ref()
            .is_none_or(|conditions| conditions.hold(request))
    }

    /// Whether it is for gRPC calls only.
    pub(super) fn is_grpc(&self) -> bool {
        self.conditions.as_ref().is_some_and(|it| it.is_grpc)
    }

    /// Smaller goes first: with a method, with more headers, with more parameters; then the order in which routes,
    /// rules and matches came.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        let conditions = self.conditions.as_ref();
        let count = |of: fn(&Conditions) -> usize| Reverse(conditions.map_or(0, |it| of(it)));
        (
            count(|it| usize::from(it.method.is_some())),
            count(|it| it.headers.len()),
            count(|it| it.query.len()),
        )
    }
}

/// Matches in order of precedence. Long lists are found by the value of a header, so that many routes of one path cost
/// little more than few.
#[derive(Debug, Default)]
pub(super) struct Entries {
    list: Vec<Entry>,
    /// By header: indexes of those that want a value of it.
    by_header: Vec<(HeaderName, Wanted)>,
    /// Indexes of all others.
    rest: Vec<u32>,
}

type Wanted = HashMap<Box<[u8]>, Vec<u32>, RandomState>;

/// Lists up to this length are read from the front.
const SHORT: usize = 8;
/// Headers by which a list is searched; each is looked up per request.
const MAX_HEADERS: usize = 4;

impl Entries {
    /// Entries that came in the order of routes, rules and matches.
    pub(super) fn new(mut list: Vec<Entry>) -> Self {
        list.sort_by_key(Entry::precedence);
        // Nobody comes after one that takes all.
        let reached = list.iter().position(|entry| entry.conditions.is_none());
        list.truncate(reached.map_or(list.len(), |last| last + 1));
        let mut entries = Self {
            list,
            ..Self::default()
        };
        if entries.list.len() > SHORT {
            entries.index();
        }
        entries
    }

    fn index(&mut self) {
        for (index, entry) in (0_u32..).zip(&self.list) {
            let mut known = self.by_header.iter_mut();
            let place = known.find_map(|(name, wanted)| Some((wanted, exact_value(entry, name)?)));
            if let Some((wanted, value)) = place {
                wanted.entry(value).or_default().push(index);
            } else if let Some((name, value)) = first_exact(entry)
                && self.by_header.len() < MAX_HEADERS
            {
                let wanted = Wanted::from_iter([(value, vec![index])]);
                self.by_header.push((name, wanted));
            } else {
                self.rest.push(index);
            }
        }
    }

    /// The first whose conditions hold.
    pub(super) fn find(&self, request: &Request<'_>) -> Option<&Entry> {
        if self.by_header.is_empty() {
            return self.list.iter().find(|entry| entry.holds(request));
        }
        let mut best = self.first_of(&self.rest, request);
        for (name, wanted) in &self.by_header {
            let value = request.field(name);
            if let Some(listed) = value.and_then(|value| wanted.get(&*value))
                && let Some(found) = self.first_of(listed, request)
            {
                best = Some(best.map_or(found, |best| best.min(found)));
            }
        }
        self.get(best?)
    }

    fn first_of(&self, listed: &[u32], request: &Request<'_>) -> Option<u32> {
        let holds = |index: &&u32| self.get(**index).is_some_and(|entry| entry.holds(request));
        listed.iter().find(holds).copied()
    }

    fn get(&self, index: u32) -> Option<&Entry> {
        self.list.get(usize::try_from(index).ok()?)
    }
}

fn exact_value(entry: &Entry, name: &HeaderName) -> Option<Box<[u8]>> {
    exact_headers(entry).find_map(|(found, value)| (found == name).then(|| value.into()))
}

fn first_exact(entry: &Entry) -> Option<(HeaderName, Box<[u8]>)> {
    let (name, value) = exact_headers(entry).next()?;
    Some((name.clone(), value.into()))
}

fn exact_headers(entry: &Entry) -> impl Iterator<Item = (&HeaderName, &[u8])> {
    let headers = entry.conditions.iter().flat_map(|it| &it.headers);
    headers.filter_map(|(name, wanted)| match wanted {
        TextMatch::Exact(value) => Some((name, value.as_bytes())),
        TextMatch::Expression(_) => None,
    })
}

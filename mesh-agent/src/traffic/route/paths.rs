//! The paths of one host: exact ones, prefixes as a tree of segments, expressions.

use std::cmp::Reverse;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use regex::Regex;

use super::Request;
use super::entries::{Entries, Entry};
use super::matches::PathMatch;

type Map<V> = HashMap<Box<str>, V, RandomState>;

/// The matches of one host, by path.
#[derive(Debug)]
pub(super) struct Paths {
    exact: Map<Entries>,
    /// The first is the root, which stands for all paths.
    prefixes: Vec<Node>,
    expressions: Vec<Expression>,
}

/// A prefix; its children are longer by a segment.
#[derive(Debug)]
struct Node {
    children: Map<u32>,
    parent: Option<u32>,
    /// Bytes of the prefix, without a slash at its end.
    length: usize,
    entries: Entries,
}

#[derive(Debug)]
struct Expression {
    regex: Regex,
    /// The larger goes first.
    rank: (u32, u32),
    scope: usize,
    entry: Entry,
}

impl Expression {
    fn describes(&self, request: &Request<'_>) -> bool {
        self.regex.is_match(request.path) && self.entry.holds(request)
    }
}

/// What matched.
pub(super) struct Found<'a> {
    pub(super) entry: &'a Entry,
    /// By how many bytes of the path, where it was a prefix.
    pub(super) prefix: Option<usize>,
    /// Bytes of the path that all paths begin with that match so: whole segments.
    pub(super) scope: usize,
}

impl<'a> Found<'a> {
    const fn prefix(entry: &'a Entry, length: usize) -> Self {
        Self {
            entry,
            prefix: Some(length),
            scope: length,
        }
    }

    const fn other(entry: &'a Entry, scope: usize) -> Self {
        Self {
            entry,
            prefix: None,
            scope,
        }
    }
}

impl Paths {
    /// The match that goes before all others.
    pub(super) fn find(&self, request: &Request<'_>) -> Option<Found<'_>> {
        if let Some(entries) = self.exact.get(request.path)
            && let Some(entry) = entries.find(request)
        {
            return Some(Found::other(entry, request.path.len()));
        }
        let mut node = self.deepest(request.path);
        while let Some(prefix) = node
            && prefix.length > 0
        {
            if let Some(entry) = prefix.entries.find(request) {
                let better = self.call_before(request, prefix.length, entry);
                return better.or_else(|| Some(Found::prefix(entry, prefix.length)));
            }
            node = prefix.parent.and_then(|parent| self.node(parent));
        }
        let mut expressions = self.expressions.iter();
        if let Some(found) = expressions.find(|it| it.describes(request)) {
            return Some(Found::other(&found.entry, found.scope));
        }
        let entry = self.prefixes.first()?.entries.find(request)?;
        Some(Found::prefix(entry, 0))
    }

    /// The expression that goes before `entry`, if that is for calls of a service, whatever the method: a prefix of so many
    /// bytes. Of both that with most characters in the service holds, then in the method.
    fn call_before(
        &self,
        request: &Request<'_>,
        length: usize,
        entry: &Entry,
    ) -> Option<Found<'_>> {
        if !entry.is_grpc() {
            return None;
        }
        // The first byte is the slash before the service.
        let service = u32::try_from(length.saturating_sub(1)).unwrap_or(u32::MAX);
        let better = self.expressions.iter();
        let mut better = better.take_while(|expression| expression.rank > (service, 0));
        let found = better.find(|it| it.entry.is_grpc() && it.describes(request))?;
        Some(Found::other(&found.entry, found.scope))
    }

    /// The longest prefix of `path` that is in the tree. The way there ends where the tree does, so that a long path
    /// costs no more than the longest prefix.
    fn deepest(&self, path: &str) -> Option<&Node> {
        let mut node = self.prefixes.first()?;
        let Some(segments) = path.strip_prefix('/') else {
            return Some(node);
        };
        for segment in segments.split('/') {
            if node.children.is_empty() {
                break;
            }
            match node.children.get(segment) {
                Some(child) => node = self.node(*child)?,
                None => break,
            }
        }
        Some(node)
    }

    fn node(&self, index: u32) -> Option<&Node> {
        self.prefixes.get(usize::try_from(index).ok()?)
    }
}

/// Paths that are being collected.
#[derive(Debug, Default)]
pub(super) struct Builder {
    exact: Map<Vec<Entry>>,
    prefixes: Map<Vec<Entry>>,
    expressions: Vec<Expression>,
}

impl Builder {
    /// Adds a match. They come in the order of routes, rules and matches.
    pub(super) fn add(&mut self, path: &PathMatch, entry: Entry) {
        match path {
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default().push(entry),
            PathMatch::Prefix(path) => self.prefixes.entry(path.clone()).or_default().push(entry),
            PathMatch::Expression { regex, rank, scope } => {
                self.expressions.push(Expression {
                    regex: regex.clone(),
                    rank: *rank,
                    scope: *scope,
                    entry,
                });
            }
        }
    }

    pub(super) fn finish(mut self) -> Paths {
        let exact = self.exact.into_iter();
        self.expressions
            .sort_by_key(|it| (Reverse(it.rank), it.entry.precedence()));
        let mut paths = Paths {
            exact: exact
                .map(|(path, list)| (path, Entries::new(list)))
                .collect(),
            prefixes: vec![Node::new(None, 0)],
            expressions: self.expressions,
        };
        for (prefix, list) in self.prefixes {
            paths.insert(&prefix, Entries::new(list));
        }
        paths
    }
}

impl Node {
    fn new(parent: Option<u32>, length: usize) -> Self {
        Self {
            children: Map::default(),
            parent,
            length,
            entries: Entries::default(),
        }
    }
}

impl Paths {
    fn insert(&mut self, prefix: &str, entries: Entries) {
        let mut at = 0_usize;
        if let Some(segments) = prefix.strip_prefix('/') {
            for segment in segments.split('/') {
                at = self.child(at, segment);
            }
        }
        if let Some(node) = self.prefixes.get_mut(at) {
            node.entries = entries;
        }
    }

    /// The node below `parent` for a segment; made where it is not there yet.
    fn child(&mut self, parent: usize, segment: &str) -> usize {
        let count = self.prefixes.len();
        let Some(node) = self.prefixes.get_mut(parent) else {
            return parent;
        };
        let length = node.length + 1 + segment.len();
        let number = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        if let Some(child) = node.children.get(segment) {
            return usize::try_from(*child).unwrap_or(parent);
        }
        node.children.insert(segment.into(), number(count));
        self.prefixes.push(Node::new(Some(number(parent)), length));
        count
    }
}

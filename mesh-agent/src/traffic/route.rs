//! Where a request or connection goes: routes are compiled one by one, and merged into a table per service port.
//!
//! The meaning is that of the Gateway API 1.5 (gateway-api.sigs.k8s.io/reference/spec) for routes attached to a
//! Service. [`compiled::CompiledRoute`] is one object, [`table::Table`] all that are attached to one port. What the
//! Gateway API leaves to the implementation is decided so:
//!
//! * A path expression goes before the prefix `/` and after every longer prefix, a longer one before a shorter one.
//!   Among matches of gRPC routes an expression and a service without a method are compared by the characters of the service,
//!   then of the method.
//! * Matches of a gRPC route take gRPC calls only. Routes of one kind are in force for a port (`state::attach`), but for
//!   callers of different namespaces; any that come here together are merged by the same precedence.
//! * A field with several values is compared as their combination (RFC 9110, 5.2); of a repeated query parameter the
//!   first value counts.
//! * Where the rules of the most specific host or path do not match, the next ones are asked.

pub mod compiled;
pub mod condition;
pub mod cors;
mod entries;
pub mod filter;
pub mod host;
mod matches;
mod paths;
pub mod redirect;
pub mod rewrite;
pub mod split;
pub mod stream;
pub mod table;
pub mod text;

use std::borrow::Cow;

use http::header::HeaderName;
use http::{HeaderMap, Method};

use super::fields::Fields;

/// The head of a request, as routing sees it: after the path has been normalised.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The host that it names, without a port.
    pub host: Option<&'a str>,
    /// The same with the port, if it names one: what `host` says, or `:authority` of HTTP/2, in its one spelling.
    pub authority: Option<&'a str>,
    /// The path, without the query.
    pub path: &'a str,
    /// The query, without the question mark.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// Whether it is a gRPC call.
    pub is_grpc: bool,
}

impl<'a> Request<'a> {
    /// The value of a field, several combined.
    fn field(&self, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
        let Self {
            headers, authority, ..
        } = *self;
        Fields { headers, authority }.get(name)
    }
}

#[cfg(test)]
mod tests;

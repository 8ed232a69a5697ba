//! Rules of `TCPRoute` and `TLSRoute` (Gateway API v1.5).

use super::{bound, http, route};
use crate::state::Refusal;
use crate::state::reference::Backend;
use crate::state::stream_route::{StreamRouteRule, TcpRouteSpec, TlsRouteSpec};

/// Most names that a TLS route is for.
const MAX_NAMES: usize = 1024;

/// Checks a route by itself: its parents and backends may come later.
pub(super) fn tcp(spec: &TcpRouteSpec) -> Result<(), Refusal> {
    route::parents(&spec.parent_refs)?;
    rules(&spec.rules)
}

/// The same for TLS.
pub(super) fn tls(spec: &TlsRouteSpec) -> Result<(), Refusal> {
    route::parents(&spec.parent_refs)?;
    http::hostnames(&spec.hostnames, MAX_NAMES)?;
    rules(&spec.rules)
}

fn rules(rules: &[StreamRouteRule]) -> Result<(), Refusal> {
    let [rule] = rules else {
        return Err(Refusal::invalid(
            "spec.rules",
            "exactly one rule: nothing tells its connections from those of another",
        ));
    };
    route::rules([rule.name.as_ref()].into_iter())?;
    let field = "spec.rules[0].backendRefs";
    if rule.backend_refs.is_empty() {
        return Err(Refusal::invalid(field, "at least one"));
    }
    bound::at_most(field, &rule.backend_refs, route::MAX_BACKENDS)?;
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        let field = format!("{field}[{index}]");
        route::backend(&field, &Backend::from(backend))?;
        route::weight(&field, backend.weight)?;
    }
    Ok(())
}

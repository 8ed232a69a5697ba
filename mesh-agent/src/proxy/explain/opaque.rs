//! Where a connection would go that is not looked into: to the service, or where its TCP and TLS routes send it.

use std::sync::Arc;

use super::{Scene, held};
use crate::proxy::view::ServicePort;
use crate::state::report::{BackendExplanation, RequestExplanation};
use crate::state::service::Protocol;
use crate::traffic::route::stream::{StreamRoute, StreamTable};

/// Whether connections of callers in a namespace to `port` are not looked into.
pub(super) fn is_opaque(port: &ServicePort, caller: &str) -> bool {
    match port.protocol {
        Protocol::Tcp | Protocol::Tls => true,
        Protocol::Auto => port.is_opaque_by_route(caller),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Udp => false,
    }
}

/// Explains a connection to `port` whose client asks for `name`, if it speaks TLS. Where the name makes a difference and
/// is not known, every route is told of.
pub(super) fn explain(
    scene: &Scene<'_>,
    port: &ServicePort,
    name: Option<&str>,
) -> RequestExplanation {
    let about = RequestExplanation {
        reason: "opaque".to_owned(),
        request_timeout_millis: None,
        attempt_timeout_millis: None,
        ..held(&port.policy)
    };
    let Some(streams) = port.stream_routes(scene.asker.namespace) else {
        let backends = vec![scene.backend(&port.policy, port, (1, 1), false)];
        return RequestExplanation { backends, ..about };
    };
    let routes = chosen(streams, name);
    let shares = routes.iter().flat_map(|route| shares(scene, port, route));
    let rule = match routes.as_slice() {
        [only] => Some(only.label.to_string()),
        _ => None,
    };
    let reason = match routes.as_slice() {
        [] => "no-route",
        [only] if only.backends.total() == 0 => "bad-backend",
        _ => "opaque",
    };
    RequestExplanation {
        rule,
        reason: reason.to_owned(),
        backends: shares.collect(),
        ..about
    }
}

fn chosen<'a>(streams: &'a StreamTable, name: Option<&str>) -> Vec<&'a Arc<StreamRoute>> {
    match name {
        None if streams.needs_name() => streams.routes().iter().collect(),
        name => streams.choose(name).into_iter().collect(),
    }
}

fn shares(scene: &Scene<'_>, asked: &ServicePort, route: &StreamRoute) -> Vec<BackendExplanation> {
    let total = route.backends.total();
    let shares = route.backends.iter().map(|(target, weight)| {
        let share = scene.share(asked, (&asked.policy, target.as_ref()), (weight, total));
        BackendExplanation {
            names: route.hosts.iter().map(ToString::to_string).collect(),
            ..share
        }
    });
    shares.collect()
}

//! Which endpoints may be asked, and how they are.

use std::sync::Arc;

use super::Scene;
use crate::proxy::passage;
use crate::proxy::policy::Policy;
use crate::proxy::policy::balancing::Subsets;
use crate::proxy::select;
use crate::proxy::view::{Endpoint, ServicePort};
use crate::state::report::{EndpointExplanation, FailoverExplanation};

/// The endpoints of the port that is wanted, by the subsets of the route or else of the service.
pub(super) fn of_port(
    scene: &Scene<'_>,
    policy: &Policy,
    port: &ServicePort,
) -> Vec<EndpointExplanation> {
    let subsets = policy.subsets.as_ref().or_else(|| own(port));
    shown(scene, policy, port, subsets)
}

/// The services that take over from `port`, in order.
pub(super) fn failover(
    scene: &Scene<'_>,
    policy: &Policy,
    port: &ServicePort,
) -> Vec<FailoverExplanation> {
    let balancing = port.policy.balancing.as_deref();
    let spares = balancing.map_or(&[][..], |it| it.failover.as_slice());
    let explain = |spare| {
        let found = select::takes_over(scene.view, port, spare);
        FailoverExplanation {
            service: format!("{}:{}", spare.service, spare.port.unwrap_or(port.port)),
            is_missing: found.is_none(),
            endpoints: found.map_or_else(Vec::new, |it| shown(scene, policy, it, own(it))),
        }
    };
    spares.iter().map(explain).collect()
}

fn own(port: &ServicePort) -> Option<&Subsets> {
    port.policy.balancing.as_ref()?.subsets.as_ref()
}

fn shown(
    scene: &Scene<'_>,
    policy: &Policy,
    port: &ServicePort,
    subsets: Option<&Subsets>,
) -> Vec<EndpointExplanation> {
    let is_wanted = |endpoint: &Endpoint| {
        let mut subsets = subsets.map_or(&[][..], |it| it.as_slice()).iter();
        subsets.len() == 0 || subsets.any(|it| it.weight > 0 && endpoint.is_in(it))
    };
    let endpoints = port.endpoints.iter().filter(|it| is_wanted(it));
    let explain = |it: &Arc<Endpoint>| EndpointExplanation {
        name: it.key.to_string(),
        address: it.address.to_string(),
        state: state(scene, policy, port, it).to_owned(),
    };
    endpoints.map(explain).collect()
}

/// How an endpoint is. What only the caller and the breakers on the way know comes last, in the order of a request.
fn state(
    scene: &Scene<'_>,
    policy: &Policy,
    port: &ServicePort,
    endpoint: &Endpoint,
) -> &'static str {
    match endpoint.state() {
        "ready" if scene.asker.is_denied(scene.view, endpoint) => "denied",
        "ready"
            if endpoint
                .live
                .vitals
                .is_broken(passage::guards(policy, port)) =>
        {
            "breaker-open"
        }
        word => word,
    }
}

//! Where a request goes: the rule that it falls under, and the share of the rule's backends that it is in.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, StatusCode, header};

use super::exchange::Exchange;
use super::filters;
use super::headers::Wish;
use crate::net::clock;
use crate::proxy::error::Error;
use crate::proxy::policy::Policy;
use crate::proxy::view::ServicePort;
use crate::proxy::view::routes::{Choice, HttpRoutes};
use crate::traffic::route::compiled::{Backend, Rule};

/// What becomes of a request.
pub(crate) enum Way {
    /// An endpoint answers.
    To(Routed),
    /// The rule itself does, without a body.
    Answer(StatusCode, HeaderMap),
}

/// Where a request goes, and what holds for it on the way.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    /// The service port whose endpoints are asked.
    pub(crate) port: Arc<ServicePort>,
    /// What holds: of the rule, the route and the service that was dialled.
    pub(crate) policy: Arc<Policy>,
    /// The rule; absent where no route is attached to the service.
    pub(crate) ruled: Option<Ruled>,
}

/// The rule that a request falls under.
#[derive(Clone, Debug)]
pub(crate) struct Ruled {
    /// The rule.
    pub(crate) rule: Arc<Rule>,
    /// The share of its requests that this one is in.
    pub(crate) backend: Arc<Backend>,
    /// Bytes of the path that a prefix has matched.
    pub(crate) prefix: Option<usize>,
}

/// Chooses for a request to `port`, which `dice` put into a share.
pub(crate) fn choose(
    exchange: &mut Exchange,
    port: &Arc<ServicePort>,
    parts: &Parts,
    wish: &Wish,
    dice: fn() -> u64,
) -> Result<Way, Error> {
    let connection = Arc::clone(&exchange.connection);
    match port.http_routes(&connection.caller.workload.key.namespace) {
        Some(http) => choose_rule(exchange, port, http, (parts, wish), dice),
        None => Ok(Way::To(Routed {
            port: Arc::clone(port),
            policy: Arc::clone(&port.policy),
            ruled: None,
        })),
    }
}

fn choose_rule(
    exchange: &mut Exchange,
    port: &Arc<ServicePort>,
    routes: &HttpRoutes,
    (parts, wish): (&Parts, &Wish),
    dice: fn() -> u64,
) -> Result<Way, Error> {
    let request = wish.request(parts);
    let choice = routes.choose(&request).ok_or(Error::NoRoute)?;
    let rule = choice.rule;
    exchange.rule = Some(Arc::clone(rule));
    if rule.is_broken {
        return Err(Error::BadFilter);
    }
    if rule.session.is_some() {
        let path = request.path.get(..choice.scope);
        exchange.session_path = path.map(Into::into);
    }
    let own = |filters| filters::answer(filters, &request, port, choice.prefix);
    if let Some((status, headers)) = rule.filters.as_deref().and_then(own) {
        return Ok(Way::Answer(status, headers));
    }
    let backend = session_backend(exchange, choice, parts)
        .or_else(|| rule.backends.pick(dice))
        .ok_or(Error::BadBackend)?;
    if backend.is_broken {
        return Err(Error::BadFilter);
    }
    if let Some((status, mut headers)) = backend.filters.as_deref().and_then(own) {
        if let Some(filters) = &rule.filters {
            filters::mark(filters, &mut headers, parts.headers.get(header::ORIGIN));
        }
        return Ok(Way::Answer(status, headers));
    }
    let view = exchange.connection.worker.views.load();
    let target = backend.target.as_ref();
    let target = target.and_then(|target| view.backend(target));
    Ok(Way::To(Routed {
        port: Arc::clone(target.ok_or(Error::BadBackend)?),
        policy: Arc::clone(choice.policy),
        ruled: Some(Ruled {
            rule: Arc::clone(rule),
            backend: Arc::clone(backend),
            prefix: choice.prefix,
        }),
    }))
}

/// The backend that has the endpoint of the request's session: who is in a session stays in the share where it began,
/// even if its weight has become 0 (GEP-1619), as long as somebody there can answer.
fn session_backend<'a>(
    exchange: &Exchange,
    Choice { rule, policy, .. }: Choice<'a>,
    parts: &Parts,
) -> Option<&'a Arc<Backend>> {
    let session = rule.session.as_ref()?;
    let token = session.read(&parts.headers, clock::unix_seconds())?;
    let view = exchange.connection.worker.views.load();
    let is_home = |backend: &Backend| {
        let port = backend.target.as_ref().and_then(|it| view.backend(it));
        port.is_some_and(|port| {
            let is_its = port.session_index(token.endpoint).is_some();
            is_its && port.has_anyone_well(policy.subsets.as_ref())
        })
    };
    let mut backends = rule.backends.iter().map(|(backend, _)| backend);
    backends.find(|backend| is_home(backend))
}

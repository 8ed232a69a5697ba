//! Which endpoint is tried next, and whether the caller may go there.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};

use super::caller::Caller;
use super::error::Error;
use super::metrics::{End, Ends, How, Metrics, Series};
use super::passage;
use super::policy::Policy;
use super::policy::balancing::{Failover, Subsets};
use super::view::{Active, Endpoint, ServicePort, View, Workload};
use super::worker::Worker;
use crate::net::clock;
use crate::traffic::balance::hash::Dice;
use crate::traffic::balance::key::Head;
use crate::traffic::balance::latency::Latency;
use crate::traffic::balance::pool::Trust;
use crate::traffic::balance::slow_start::{FULL, SlowStart};
use crate::traffic::balance::tier::{Ask, Fleet};
use crate::traffic::session::{Session, Token};

/// The choices made for one request or connection.
#[derive(Debug)]
pub(crate) struct Selection {
    /// The port whose endpoints are wanted.
    pub(crate) wanted: Arc<ServicePort>,
    /// The port that took over for the last choice.
    substitute: Option<Arc<ServicePort>>,
    /// Which endpoints of it the route wants.
    subsets: Option<Subsets>,
    /// Hash of what the policy names.
    hash: Option<u64>,
    sticky: Option<Box<Sticky>>,
    /// Whether the last choice has ignored health.
    is_panic: bool,
    /// How near the last choice is, where that matters.
    place: Option<&'static str>,
    /// Numbers of endpoints that have failed; at most as many as there are attempts.
    tried: Vec<u32>,
    /// Numbers of the ports that have taken over: what guards them is passed once.
    entered: Vec<u32>,
}

/// The session of a request.
#[derive(Debug)]
struct Sticky {
    session: Arc<Session>,
    /// What the client brought.
    token: Option<Token>,
    now_s: u64,
}

impl Selection {
    /// For an opaque connection to `port`.
    pub(crate) fn of_connection(port: Arc<ServicePort>, caller: &Caller) -> Self {
        Self::new(port, None, caller, None)
    }

    /// For a request to `port`, as `route` says. `session` is that of the route's rule; it goes before the service's.
    pub(crate) fn of_request(
        port: Arc<ServicePort>,
        route: &Policy,
        session: Option<&Arc<Session>>,
        caller: &Caller,
        head: Head<'_>,
    ) -> Self {
        let own = || port.policy.balancing.as_ref()?.session.as_ref();
        let sticky = session.or_else(own).map(|session| {
            let now_s = clock::unix_seconds();
            Box::new(Sticky {
                session: Arc::clone(session),
                token: session.read(head.headers, now_s),
                now_s,
            })
        });
        Self {
            sticky,
            ..Self::new(port, route.subsets.as_ref(), caller, Some(head))
        }
    }

    fn new(
        port: Arc<ServicePort>,
        subsets: Option<&Subsets>,
        caller: &Caller,
        head: Option<Head<'_>>,
    ) -> Self {
        let balancing = port.policy.balancing.as_ref();
        let key = balancing.and_then(|it| it.key.as_ref());
        Self {
            hash: key.and_then(|key| key.hash(head, caller.address())),
            wanted: port,
            substitute: None,
            subsets: subsets.map(Arc::clone),
            sticky: None,
            is_panic: false,
            place: None,
            tried: Vec::new(),
            entered: Vec::new(),
        }
    }

    /// The service port that the last choice was made for.
    pub(crate) fn port(&self) -> &Arc<ServicePort> {
        self.substitute.as_ref().unwrap_or(&self.wanted)
    }

    /// An attempt begins at the last choice: it is counted if that was no plain one.
    pub(crate) fn begin(&self, metrics: &Metrics) {
        if self.is_panic {
            metrics.chosen(self.port(), How::Panic);
        }
        if let Some(place) = self.place {
            metrics.chosen(self.port(), How::Near(place));
        }
        if let Some(port) = &self.substitute {
            let to = format!("{}.{}", port.service.name, port.service.namespace);
            metrics.chosen(&self.wanted, How::Failover(to));
        }
    }

    /// Never again for this request.
    pub(crate) fn avoid(&mut self, endpoint: &Endpoint) {
        self.tried.push(endpoint.number);
    }

    /// What the client is told with the answer of `endpoint`, so that it comes back there with requests at `path` and
    /// below. The session of a service holds on every path that leads there: GEP-1619 leaves it without one, which
    /// clients take for the folder of this request (RFC 6265, 5.1.4).
    pub(crate) fn session_field(
        &self,
        endpoint: &Endpoint,
        path: Option<&str>,
    ) -> Option<(HeaderName, HeaderValue)> {
        let Sticky {
            session,
            token,
            now_s,
        } = self.sticky.as_deref()?;
        let path = path.unwrap_or("/");
        session.answer(*token, endpoint.session_number(), *now_s, path)
    }

    /// Those that have failed may be tried again.
    pub(crate) fn forgive(&mut self) {
        self.tried.clear();
    }

    /// Picks an endpoint that has not been tried, and authorizes the caller for it. A service that takes over is asked by
    /// `enter` whether it lets the caller in: of the port that is wanted, and of its own.
    pub(crate) fn next(
        &mut self,
        worker: &Worker,
        caller: &Caller,
        enter: &mut impl FnMut(&ServicePort, &ServicePort) -> Result<(), Error>,
    ) -> Result<Active, Error> {
        let view = worker.views.load();
        let now_ns = clock::monotonic_ns();
        let ask = Ask {
            hash: self.hash,
            dice: Dice::new(rand::random()),
            now_ns,
        };
        let endpoint = self.choose(&view, caller, ask, enter)?;
        let source = caller.source_towards(endpoint.address);
        let said = view
            .authz
            .authorize(&caller.conn.caller, &source, endpoint.address.into());
        if said.is_denied {
            return Err(Error::Policy(endpoint.address));
        }
        if said.is_audited {
            worker.metrics.audited.inc();
        }
        Ok(Active::new(endpoint, now_ns))
    }

    /// The same, of those whose breakers on the way by `policy` let somebody through.
    pub(crate) fn next_unbroken(
        &mut self,
        worker: &Worker,
        caller: &Caller,
        policy: &Policy,
        mut enter: impl FnMut(&ServicePort, &ServicePort) -> Result<(), Error>,
    ) -> Result<Active, Error> {
        let mut last = Error::NoEndpoint;
        loop {
            let active = match self.next(worker, caller, &mut enter) {
                Ok(active) => active,
                Err(Error::NoEndpoint) => return Err(last),
                Err(error) => return Err(error),
            };
            let guards = passage::guards(policy, self.port());
            if !active.endpoint().live.vitals.is_broken(guards) {
                return Ok(active);
            }
            last = Error::BreakerOpen;
            self.avoid(active.endpoint());
        }
    }

    /// An endpoint that is well; else one of a service that takes over; else anyone, unless a service that would take
    /// over has refused.
    fn choose(
        &mut self,
        view: &View,
        caller: &Caller,
        ask: Ask,
        enter: &mut impl FnMut(&ServicePort, &ServicePort) -> Result<(), Error>,
    ) -> Result<Arc<Endpoint>, Error> {
        self.substitute = None;
        let wanted = Arc::clone(&self.wanted);
        if let Some(endpoint) = self.pick(&wanted, caller, ask, Trust::Well) {
            return Ok(endpoint);
        }
        let mut refusal = None;
        let balancing = wanted.policy.balancing.as_deref();
        for failover in balancing.map_or(&[][..], |it| it.failover.as_slice()) {
            if let Some(port) = takes_over(view, &wanted, failover)
                && let Some(endpoint) = self.pick(port, caller, ask, Trust::Well)
            {
                if !self.entered.contains(&port.number) {
                    if let Err(error) = enter(&wanted, port) {
                        refusal.get_or_insert(error);
                        continue;
                    }
                    self.entered.push(port.number);
                }
                self.substitute = Some(Arc::clone(port));
                return Ok(endpoint);
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        if balancing.is_none_or(|it| it.has_last_resort) {
            let anyone = self.pick(&wanted, caller, ask, Trust::Anyone);
            return anyone.ok_or(Error::NoEndpoint);
        }
        Err(Error::NoEndpoint)
    }

    /// Picks an endpoint of `port`: first whom the caller's address family reaches.
    fn pick(
        &mut self,
        port: &ServicePort,
        caller: &Caller,
        mut ask: Ask,
        trust: Trust,
    ) -> Option<Arc<Endpoint>> {
        let balancing = port.policy.balancing.as_deref();
        let facts = Facts {
            port,
            tried: &self.tried,
            now_ns: ask.now_ns,
            slow_start: balancing.and_then(|it| it.slow_start),
        };
        let made;
        let [v4, v6] = match &self.subsets {
            Some(subsets) if port.number == self.wanted.number => {
                made = port.layouts.of_route(subsets, &port.endpoints);
                &*made
            }
            _ => port.layouts.own(),
        };
        let plans = if caller.original.is_ipv4() {
            [v4, v6]
        } else {
            [v6, v4]
        };
        let token = self.sticky.as_ref().and_then(|it| it.token);
        let home = token.and_then(|token| port.session_index(token.endpoint));
        if let Some(home) = home
            && plans.iter().any(|plan| plan.has(home))
            && facts.is_open(home)
            && facts.is_well(home)
        {
            (self.is_panic, self.place) = (false, None);
            return facts.endpoint(home).map(Arc::clone);
        }
        let picked = plans
            .into_iter()
            .find_map(|plan| plan.pick(&mut ask, &facts, trust))?;
        let endpoint = facts.endpoint(picked.index).map(Arc::clone);
        self.is_panic = picked.is_panic;
        self.place = balancing.and_then(|it| it.place(picked.distance));
        endpoint
    }
}

/// The port of a service that takes over, if it is there and speaks the same.
pub(crate) fn takes_over<'a>(
    view: &'a View,
    wanted: &ServicePort,
    failover: &Failover,
) -> Option<&'a Arc<ServicePort>> {
    if !view.permits(failover.stranger.as_ref(), &failover.service) {
        return None;
    }
    let port = view.port_of(&failover.service, failover.port.unwrap_or(wanted.port))?;
    Some(port).filter(|it| it.protocol.takes_over(wanted.protocol))
}

/// What a choice asks about the endpoints of a port.
struct Facts<'a> {
    port: &'a ServicePort,
    tried: &'a [u32],
    now_ns: u64,
    slow_start: Option<SlowStart>,
}

impl<'a> Facts<'a> {
    fn endpoint(&self, index: u32) -> Option<&'a Arc<Endpoint>> {
        self.port.endpoints.get(usize::try_from(index).ok()?)
    }
}

impl Fleet for Facts<'_> {
    fn is_open(&self, index: u32) -> bool {
        self.endpoint(index)
            .is_some_and(|endpoint| !self.tried.contains(&endpoint.number))
    }

    fn is_well(&self, index: u32) -> bool {
        self.endpoint(index)
            .is_some_and(|endpoint| endpoint.live.is_well())
    }

    fn weight(&self, index: u32) -> u32 {
        self.endpoint(index).map_or(1, |endpoint| endpoint.weight)
    }

    fn active(&self, index: u32) -> u32 {
        self.endpoint(index)
            .map_or(0, |endpoint| endpoint.live.load(self.now_ns))
    }

    fn latency(&self, index: u32) -> Option<&Latency> {
        self.endpoint(index).map(|endpoint| &endpoint.live.latency)
    }

    fn grown(&self, index: u32) -> u32 {
        let Some(slow_start) = self.slow_start else {
            return FULL;
        };
        // Who is out is asked in a panic only, and then like the others.
        let endpoint = self.endpoint(index).filter(|it| !it.live.is_ejected());
        endpoint.map_or(FULL, |endpoint| {
            slow_start.share(endpoint.live.since_ns(), self.now_ns)
        })
    }
}

/// The series of a caller and an endpoint.
pub(crate) fn series(
    metrics: &Metrics,
    caller: &Workload,
    port: &ServicePort,
    endpoint: Option<&Endpoint>,
) -> Arc<Series> {
    let make = || {
        let destination =
            endpoint.map_or_else(End::default, |endpoint| destination(port, endpoint));
        let ends = Ends {
            source: caller.labels(),
            destination,
            service: port.host.clone(),
            service_name: port.service.name.clone(),
            service_namespace: port.service.namespace.clone(),
        };
        Series::new(metrics, ends)
    };
    match endpoint {
        Some(endpoint) => endpoint.series(caller, make),
        None => port.memory.series(caller, make),
    }
}

/// Labels of an endpoint: those of its workload, if it is one of this node.
fn destination(port: &ServicePort, endpoint: &Endpoint) -> End {
    let mut end = endpoint.workload.as_ref().map_or_else(
        || End {
            workload: endpoint.key.name.clone(),
            namespace: endpoint.key.namespace.clone(),
            ..End::default()
        },
        |workload| workload.labels(),
    );
    end.canonical_service.clone_from(&port.service.name);
    if let Some(version) = &endpoint.version {
        end.version.clone_from(version);
        end.revision.clone_from(version);
    }
    end
}

//! Whether there may be one more attempt than there must be, so that retries never become a storm.

use super::policy::Policy;
use super::view::{Endpoint, ServicePort};
use super::worker::Worker;
use crate::net::clock;
use crate::traffic::retry::budget::{Budget, Extra};

/// What retries and hedges of requests for `port` are taken out of: the budget of the policy that speaks of them, else the
/// port's own.
pub(crate) fn of<'a>(policy: &'a Policy, port: &'a ServicePort) -> &'a Budget {
    let of_policy = policy.extra.budget.as_ref();
    of_policy.map_or(&port.memory.budget, |spending| &spending.budget)
}

/// Takes one more attempt out of it, if there is one. It is not given back.
pub(crate) fn take(worker: &Worker, policy: &Policy, port: &ServicePort, extra: Extra) -> bool {
    let is_within = of(policy, port).take(extra, clock::monotonic_ns());
    if !is_within {
        worker.metrics.retry_refused("budget");
    }
    is_within
}

/// Whether it costs nothing to ask `next` after no connection was made to `failed`. Without this a dead endpoint among
/// living ones would cost requests of a service that has had few of late, and a smaller budget. It cannot become a storm:
/// nobody has seen the request, `failed` is put aside for it (for a second, then ever longer), `next` takes connections as far
/// as anybody knows, and once all are put aside the budget holds. What a policy says of its budget holds without exception.
pub(crate) fn is_free(policy: &Policy, failed: &Endpoint, next: &Endpoint) -> bool {
    policy.extra.budget.is_none() && failed.live.is_ejected() && !next.live.is_ejected()
}

/// Whether `next` may be asked after no connection was made to `failed`. If that costs something it is taken.
pub(crate) fn may_connect(
    worker: &Worker,
    (policy, port): (&Policy, &ServicePort),
    failed: &Endpoint,
    next: &Endpoint,
) -> bool {
    is_free(policy, failed, next) || take(worker, policy, port, Extra::Retry)
}

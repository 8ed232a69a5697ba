//! The endpoint of the next attempt.

use super::Attempts;
use crate::proxy::budget;
use crate::proxy::error::Error;
use crate::proxy::http::Connection;
use crate::proxy::view::Active;

impl Attempts<'_> {
    /// Never again, unless there is no other.
    pub(super) fn avoid_last(&mut self) {
        if let Some(active) = &self.exchange.active {
            self.selection.avoid(active.endpoint());
        }
    }

    /// Whether it costs nothing to ask this one instead of the last, which has taken no connection.
    pub(super) fn is_free(&self, next: &Active) -> bool {
        let failed = self.exchange.active.as_ref();
        failed.is_some_and(|it| budget::is_free(&self.policy, it.endpoint(), next.endpoint()))
    }

    /// An endpoint that was not tried yet, whose breaker lets the request through.
    pub(super) fn pick(&mut self) -> Result<Active, Error> {
        let Connection { worker, caller, .. } = &*self.connection;
        let policy = &self.policy;
        let (exchange, passed, original) = (&mut self.exchange, &mut self.passed, &self.original);
        let enter =
            |wanted: &_, port: &_| passed.take_over(exchange, policy, (wanted, port), original);
        self.selection.next_unbroken(worker, caller, policy, enter)
    }

    /// The same; where all were tried and a policy wants retries, one of those again.
    pub(super) fn pick_another(&mut self) -> Result<Active, Error> {
        let mut picked = self.pick();
        if let (Err(error), true) = (&picked, self.policy.extra.plan.is_some())
            && error.is_for_want_of_endpoints()
        {
            self.selection.forgive();
            picked = self.pick();
        }
        picked.map_err(|error| match error {
            error if error.is_for_want_of_endpoints() => Error::NoEndpoint,
            error => error,
        })
    }
}

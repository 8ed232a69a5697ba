//! One request and its response, from head to end: what is counted and logged, exactly once, however it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Connection;
use super::admit::Admitted;
use super::body::{Fate, Upload};
use super::guarded::Guarded;
use super::mirror::Tee;
use super::received::Received;
use super::silence::Silence;
use crate::proxy::access_log;
use crate::proxy::error::Error;
use crate::proxy::metrics::{self, OutcomeKey};
use crate::proxy::policy::Policy;
use crate::proxy::policy::breaker::Slot;
use crate::proxy::pool::Lease;
use crate::proxy::select;
use crate::proxy::view::{Active, ServicePort};
use crate::traffic::deadline;
use crate::traffic::route::compiled::Rule;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// When a request must have ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// Then.
    pub(crate) at: Instant,
    /// Whether a policy has set it, and not the client.
    pub(crate) is_ours: bool,
}

/// A request under way. Dropped, it is counted and logged.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The client's connection.
    pub(crate) connection: Arc<Connection>,
    /// The service port that was asked, and after routing the one that answers.
    pub(crate) port: Option<Arc<ServicePort>>,
    /// The rule of a route that it falls under.
    pub(crate) rule: Option<Arc<Rule>>,
    /// The endpoint that answers.
    pub(crate) active: Option<Active>,
    /// The connection to it.
    pub(crate) lease: Option<Lease>,
    /// The path at and below which the session of the rule holds, if it has one: as the client sees it.
    pub(crate) session_path: Option<Box<str>>,
    /// What the client is told so that it comes back to the same endpoint.
    pub(crate) session_field: Option<(HeaderName, HeaderValue)>,
    /// What it holds of limited things.
    pub(crate) admitted: Admitted,
    /// How the request's body has fared, if it has one.
    pub(crate) fate: Option<Arc<Fate>>,
    /// The connection to the endpoint serves no other request, for it may become a tunnel.
    pub(crate) is_last: bool,
    /// What the access log tells of the request; absent where there is no log.
    pub(crate) head: Option<Box<access_log::Head>>,
    /// Whether it is a gRPC call.
    pub(crate) is_grpc: bool,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// Why the proxy answered itself.
    pub(crate) reason: Option<&'static str>,
    /// What it holds of what is limited.
    pub(crate) slots: Vec<Slot>,
    /// The same of its last retry or hedge, until it is answered.
    pub(crate) retry_slots: Vec<Slot>,
    deadline: Option<Deadline>,
    expiry: Option<Pin<Box<Sleep>>>,
    started: Instant,
    status: u16,
    grpc_status: Option<u8>,
    response_bytes: u64,
    flags: &'static str,
    is_complete: bool,
}

impl Exchange {
    /// In a box from the beginning: it goes through many hands.
    pub(crate) fn new(connection: Arc<Connection>) -> Box<Self> {
        connection.pulse.request_started();
        Box::new(Self {
            connection,
            port: None,
            rule: None,
            active: None,
            lease: None,
            session_path: None,
            session_field: None,
            admitted: Admitted::default(),
            fate: None,
            is_last: false,
            head: None,
            is_grpc: false,
            attempts: 0,
            reason: None,
            slots: Vec::new(),
            retry_slots: Vec::new(),
            deadline: None,
            expiry: None,
            started: Instant::now(),
            status: 0,
            grpc_status: None,
            response_bytes: 0,
            flags: "-",
            is_complete: false,
        })
    }

    /// Tells the client of its session, if it has one.
    pub(crate) fn tell_session(&mut self, headers: &mut HeaderMap) {
        if let Some((name, value)) = self.session_field.take() {
            headers.append(name, value);
        }
    }

    /// The number of the port whose endpoint was asked last.
    pub(crate) fn asked(&self) -> Option<u32> {
        self.port.as_ref().map(|port| port.number)
    }

    /// Whether its connection is one too many.
    pub(crate) fn is_turned_away(&self) -> bool {
        self.connection.caller.turned_away.is_some()
    }

    /// Sets the deadline: that of a policy, or that of a gRPC client, if it is sooner.
    pub(crate) fn limit_time(&mut self, policy: &Policy, headers: &HeaderMap) {
        let deadline = |time, is_ours| Deadline {
            at: self.started + time,
            is_ours,
        };
        let ours = policy.timeouts.request.map(|time| deadline(time, true));
        let value = self.is_grpc.then(|| headers.get(GRPC_TIMEOUT)).flatten();
        let theirs = value
            .and_then(|value| deadline::parse_grpc(value.as_bytes()))
            .map(|time| deadline(time, false));
        self.deadline = match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours.at <= theirs.at => Some(ours),
            (ours, theirs) => theirs.or(ours),
        };
        if let (Some(deadline), false) = (self.deadline, self.connection.is_http2) {
            self.connection.pulse.answer.set_due(Some(deadline.at));
        }
    }

    /// When it must have ended.
    pub(crate) const fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Whether it should have ended when so much more time has passed. Most requests have no deadline, and need no clock.
    pub(crate) fn is_overdue_in(&self, wait: Duration) -> bool {
        let end = || Instant::now() + wait;
        self.deadline.is_some_and(|deadline| deadline.at <= end())
    }

    /// Does nothing for a time, or until it must have ended.
    pub(crate) async fn pause(&self, time: Duration) -> Result<(), Error> {
        if time.is_zero() {
            return Ok(());
        }
        let end = Instant::now() + time;
        match self.deadline {
            Some(deadline) if deadline.at <= end => {
                sleep_until(deadline.at).await;
                Err(Error::Deadline)
            }
            _ => {
                sleep_until(end).await;
                Ok(())
            }
        }
    }

    /// Tells the endpoint of a gRPC call how much time is left.
    pub(crate) fn shorten(&self, headers: &mut HeaderMap, now: Instant) {
        if let (true, Some(deadline)) = (self.is_grpc, self.deadline) {
            let left = deadline.at.saturating_duration_since(now);
            if let Ok(value) = HeaderValue::try_from(deadline::format_grpc(left)) {
                headers.insert(GRPC_TIMEOUT, value);
            }
        }
    }

    /// Whether the deadline has passed; if not, the task is woken when it does.
    pub(crate) fn has_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.deadline else {
            return false;
        };
        let expiry = self
            .expiry
            .get_or_insert_with(|| Box::pin(sleep_until(deadline.at)));
        expiry.as_mut().poll(cx).is_ready()
    }

    /// All retries that there may be were in vain.
    pub(crate) const fn retries_exceeded(&mut self) {
        self.flags = "URX";
    }

    /// The head of the response is known.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status.as_u16();
        self.connection.pulse.interim.close();
        self.retry_slots.clear();
        if self.is_grpc {
            self.read_grpc_status(headers);
        }
    }

    /// The request's body, with copies for `tees`. That of a gRPC call is a stream, in which silence is nothing unusual.
    pub(crate) fn upload(&mut self, body: Received, tees: Vec<Tee>) -> Upload {
        let timeouts = &self.connection.worker.config.timeouts;
        let patience = if self.connection.is_http2 && self.is_grpc {
            timeouts.idle
        } else {
            timeouts.body
        };
        let inner = Guarded::new(body, Silence::new(patience)).copied(tees);
        let fate = Arc::clone(self.fate.get_or_insert_default());
        Upload::new(inner, fate)
    }

    /// The response's body. Of HTTP/1 the connection's own limit holds.
    pub(crate) fn guard_response(&self, body: Received) -> Guarded {
        let silence = if self.connection.is_http2 {
            Silence::new(self.connection.worker.config.timeouts.idle)
        } else {
            Silence::allowed()
        };
        Guarded::new(body, silence)
    }

    /// The proxy answers itself.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.flags = error.flags();
        self.reason = Some(error.reason());
        self.connection.worker.metrics.failed(error.reason());
    }

    /// Bytes of the request's body, and of what followed it in a tunnel.
    fn request_bytes(&self) -> u64 {
        self.fate.as_ref().map_or(0, |fate| fate.bytes())
    }

    /// More of the response's body.
    pub(crate) const fn add_response_bytes(&mut self, bytes: u64) {
        self.response_bytes += bytes;
    }

    /// The status of the call, if these headers or trailers hold it.
    pub(crate) fn read_grpc_status(&mut self, headers: &HeaderMap) {
        if self.is_grpc
            && let Some(status) = headers.get("grpc-status")
        {
            let number = status.to_str().ok().and_then(|text| text.parse().ok());
            // Status 2 is "unknown"; numbers above 16 do not exist, and would make series without end.
            self.grpc_status = Some(number.filter(|number| *number <= 16).unwrap_or(2));
        }
    }

    /// The response has ended well: its connection may serve again.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
        self.connection.pulse.answer.has_ended();
        if let Some(lease) = self.lease.take()
            && !self.is_last
        {
            let worker = &self.connection.worker;
            worker.pool.give_back(worker, lease);
        }
    }

    /// The endpoint has broken off in the middle.
    pub(crate) fn cut_off(&mut self) {
        self.flags = "UC";
        self.is_complete = true;
        self.reason = Some("upstream");
        self.connection.worker.metrics.failed("upstream");
    }

    /// Why the proxy has ended it; nothing where the client has.
    fn cut(&self, is_due: bool) -> Option<Error> {
        if is_due && self.is_overdue_in(Duration::ZERO) {
            Some(Error::Deadline)
        } else if self.connection.worker.closing.is_cancelled() {
            Some(Error::Draining)
        } else if self.connection.pulse.is_idle() {
            Some(Error::Idle)
        } else {
            None
        }
    }

    const fn protocol(&self) -> &'static str {
        if self.is_grpc { "grpc" } else { "http" }
    }

    fn count(&self) {
        let Some(port) = &self.port else { return };
        let connection = &*self.connection;
        let endpoint = self.active.as_ref().map(Active::endpoint);
        let series = select::series(
            &connection.worker.metrics,
            &connection.caller.workload,
            port,
            endpoint.map(|endpoint| &**endpoint),
        );
        let outcome = series.http(OutcomeKey {
            protocol: self.protocol(),
            code: metrics::code(self.status),
            grpc: self.grpc_status,
            flags: self.flags,
        });
        outcome.requests.inc();
        outcome
            .duration_ms
            .observe(self.started.elapsed().as_secs_f64() * 1000.0);
        outcome
            .request_bytes
            .observe(approximate(self.request_bytes()));
        outcome
            .response_bytes
            .observe(approximate(self.response_bytes));
    }

    fn log(&mut self) {
        let Some(head) = self.head.take() else { return };
        let connection = &*self.connection;
        let line = access_log::Line {
            caller: &connection.caller,
            port: self.port.as_deref(),
            endpoint: self.active.as_ref().map(|active| &**active.endpoint()),
            protocol: self.protocol(),
            head: Some(&head),
            route: self.rule.as_ref().map(|rule| &*rule.label),
            status: Some(self.status),
            grpc_status: self.grpc_status,
            bytes_sent: self.request_bytes(),
            bytes_received: self.response_bytes,
            duration: self.started.elapsed(),
            attempts: self.attempts,
            flags: self.flags,
            reason: self.reason,
        };
        connection.worker.config.access_log.write(line.to_json());
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let is_due = self.deadline.is_some() && !self.connection.is_http2;
        if is_due {
            self.connection.pulse.answer.set_due(None);
        }
        if !self.is_complete && self.reason.is_none() {
            if let Some(error) = self.cut(is_due) {
                self.failed(&error);
            } else {
                self.flags = "DC";
                self.reason = Some("downstream");
            }
        }
        self.connection.pulse.request_ended();
        self.count();
        self.log();
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "histograms are of floating point; sizes beyond 2^53 do not occur"
)]
const fn approximate(bytes: u64) -> f64 {
    bytes as f64
}

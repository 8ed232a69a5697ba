//! How one endpoint is asked, by the words of a policy.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, header};

use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::probe;
use crate::probe::{Ask, Question};
use crate::proxy::view::{Endpoint, ServicePort};
use crate::state::endpoint::HealthStatus;
use crate::state::traffic_policy::health::HealthCheck;
use crate::traffic::health::Statuses;

/// How one endpoint is asked.
#[derive(Debug)]
pub(super) struct Probe {
    spec: HealthCheck,
    /// `None` where the words make no request.
    asker: Option<probe::Probe>,
}

/// What a check has shown, in a sentence.
#[derive(Debug)]
pub(super) enum Seen {
    /// The endpoint is well.
    Good(String),
    /// It is not.
    Bad(String),
    /// It could not be asked, which says nothing about it.
    Nothing(String),
}

impl Seen {
    /// The word in metrics.
    pub(super) const fn outcome(&self) -> &'static str {
        match self {
            Self::Good(_) => "good",
            Self::Bad(_) => "bad",
            Self::Nothing(_) => "unasked",
        }
    }
}

impl Probe {
    pub(super) fn new(
        table: &Arc<dyn ConnTable>,
        spec: &HealthCheck,
        port: &ServicePort,
        endpoint: &Endpoint,
        places: Vec<Arc<Netns>>,
    ) -> Self {
        let question = question(spec, &port.host);
        let asker = question.map(|question| probe::Probe {
            table: Arc::clone(table),
            places,
            address: endpoint.address,
            service: port.service_number,
            endpoint: endpoint.number,
            question,
            tls: None,
            limit: spec.timeout.get(),
        });
        Self {
            spec: spec.clone(),
            asker,
        }
    }

    /// The words of the policy.
    pub(super) const fn spec(&self) -> &HealthCheck {
        &self.spec
    }

    /// Whether it asks the same in the same way, from wherever.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.spec == other.spec && self.matches(other, probe::Probe::is_like)
    }

    /// Whether it asks from the same places.
    pub(super) fn is_from_same_places(&self, other: &Self) -> bool {
        self.matches(other, probe::Probe::is_from_same_places)
    }

    fn matches(&self, other: &Self, is_same: fn(&probe::Probe, &probe::Probe) -> bool) -> bool {
        match (&self.asker, &other.asker) {
            (Some(own), Some(other)) => is_same(own, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Asks.
    pub(super) async fn run(&self) -> Seen {
        let Some(asker) = &self.asker else {
            return Seen::Nothing("the policy makes no request".to_owned());
        };
        match asker.run().await {
            Ok(shown) if shown.status == HealthStatus::Passing => Seen::Good(shown.output),
            Ok(shown) => Seen::Bad(shown.output),
            Err(unasked) => Seen::Nothing(unasked.to_string()),
        }
    }
}

/// What is asked; `None` for words that no request can be made of, which the registry refuses.
fn question(spec: &HealthCheck, host: &str) -> Option<Question> {
    let host = host.to_owned();
    if let Some(check) = &spec.grpc {
        let service = check.service.clone();
        return Some(Question::Grpc { host, service });
    }
    let Some(check) = &spec.http else {
        return Some(Question::Connect);
    };
    let host = HeaderValue::try_from(check.host.as_ref().unwrap_or(&host)).ok()?;
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, host);
    Some(Question::Http(Box::new(Ask {
        method: Method::GET,
        path: PathAndQuery::try_from(check.path.as_str()).ok()?,
        headers,
        body: Bytes::new(),
        good: Statuses::parse(&check.statuses),
        warning: Statuses::default(),
        text: check.body.clone(),
        is_body_shown: false,
    })))
}

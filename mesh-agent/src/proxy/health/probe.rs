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
    /// `None` where there is no network namespace to ask from, or the words make no request.
    asker: Option<probe::Probe>,
}

impl Probe {
    pub(super) fn new(
        table: &Arc<dyn ConnTable>,
        spec: &HealthCheck,
        port: &ServicePort,
        endpoint: &Endpoint,
        place: Option<Arc<Netns>>,
    ) -> Self {
        let question = question(spec, &port.host);
        let asker = place.zip(question).map(|(place, question)| probe::Probe {
            table: Arc::clone(table),
            place,
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

    /// Whether it asks the same in the same way.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.spec == other.spec
            && match (&self.asker, &other.asker) {
                (Some(own), Some(other)) => own.is_like(other),
                (None, None) => true,
                _ => false,
            }
    }

    /// Asks. What was seen, in a sentence, and whether it is good.
    pub(super) async fn run(&self) -> Result<String, String> {
        let Some(asker) = &self.asker else {
            return Err("no network namespace to ask from".to_owned());
        };
        let shown = asker.run().await;
        match shown.status {
            HealthStatus::Passing => Ok(shown.output),
            HealthStatus::Warning | HealthStatus::Critical => Err(shown.output),
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

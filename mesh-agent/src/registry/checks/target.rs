//! From the words of a check to what is asked, whom, and from where.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::trust::Trust;
use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::probe::{Ask, Probe, Question, Shown, Tls};
use crate::state::Snapshot;
use crate::state::check::{AliasTarget, Check, HttpTarget, LOCALHOST, TlsTarget, bare_host};
use crate::state::endpoint::{Endpoint, HealthStatus};
use crate::state::life::View;
use crate::state::object::ObjectKey;
use crate::traffic::health::Statuses;

/// What is asked, and the authority that is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    authority: Authority,
    question: Question,
    tls: Option<TlsTarget>,
}

/// From where is asked, and whom to believe.
pub(super) struct Asker {
    pub(super) table: Arc<dyn ConnTable>,
    pub(super) place: Arc<Netns>,
    pub(super) trust: Arc<Trust>,
}

impl Target {
    /// What a check asks; `None` for one that asks nobody.
    pub(super) fn of(check: &Check) -> Option<Self> {
        let authority = check.authority()?;
        if let Some(target) = &check.http {
            return Some(Self {
                question: http(target, &authority)?,
                authority,
                tls: target
                    .is_https()
                    .then(|| check.tls.clone().unwrap_or_default()),
            });
        }
        if check.tcp.is_some() {
            return Some(Self {
                authority,
                question: Question::Connect,
                tls: check.tls.clone(),
            });
        }
        let target = check.grpc.as_ref()?;
        Some(Self {
            authority,
            question: Question::Grpc {
                host: target.address.clone(),
                service: target.service.clone(),
            },
            tls: check.tls.clone(),
        })
    }

    /// Asks, within `limit`.
    pub(super) async fn ask(self, asker: &Asker, limit: Duration) -> Shown {
        let asking = async {
            let probe = Probe {
                table: Arc::clone(&asker.table),
                places: vec![Arc::clone(&asker.place)],
                address: self.resolve().await?,
                service: 0,
                endpoint: 0,
                tls: self.tls(&asker.trust).await?,
                question: self.question,
                limit,
            };
            probe.run().await.map_err(|unasked| unasked.to_string())
        };
        let answer = tokio::time::timeout(limit, asking).await;
        let failed = |output| Shown {
            status: HealthStatus::Critical,
            output,
        };
        match answer {
            Ok(Ok(shown)) => shown,
            Ok(Err(output)) => failed(output),
            Err(_) => failed(format!("no answer within {limit:?}")),
        }
    }

    /// The address behind the authority. `localhost` is not looked up: it is the namespace from which is asked.
    async fn resolve(&self) -> Result<SocketAddr, String> {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let port = self.authority.port_u16().unwrap_or(usual);
        let host = bare_host(&self.authority);
        if let Ok(ip) = host.parse() {
            return Ok(SocketAddr::new(ip, port));
        }
        if host.eq_ignore_ascii_case(LOCALHOST) {
            return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
        }
        let found = tokio::net::lookup_host((host, port)).await;
        let mut found = found.map_err(|error| format!("{host} cannot be resolved: {error}"))?;
        found.next().ok_or_else(|| format!("{host} has no address"))
    }

    async fn tls(&self, trust: &Arc<Trust>) -> Result<Option<Tls>, String> {
        let Some(target) = &self.tls else {
            return Ok(None);
        };
        let connector = trust.connector(target.insecure_skip_verify).await?;
        let protocol: Option<&[u8]> = match self.question {
            Question::Connect => None,
            Question::Http(_) => Some(b"http/1.1"),
            Question::Grpc { .. } => Some(b"h2"),
        };
        let host = || bare_host(&self.authority);
        let name = target.server_name.as_deref().unwrap_or_else(host);
        Ok(Some(Tls {
            connector: connector.afresh(protocol),
            name: name.to_owned(),
        }))
    }
}

fn http(target: &HttpTarget, authority: &Authority) -> Option<Question> {
    let uri: Uri = target.url.parse().ok()?;
    let mut headers = HeaderMap::new();
    headers.insert(
        header::HOST,
        HeaderValue::try_from(authority.as_str()).ok()?,
    );
    for (name, value) in &target.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        headers.insert(name, HeaderValue::try_from(value).ok()?);
    }
    let path = uri.path_and_query().cloned();
    Some(Question::Http(Box::new(Ask {
        method: Method::from_bytes(target.method.as_bytes()).ok()?,
        path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
        headers,
        body: Bytes::from(target.body.clone().unwrap_or_default()),
        good: Statuses::parse(&["200-299".to_owned()]),
        warning: Statuses::parse(&["429".to_owned()]),
        text: None,
        is_body_shown: true,
    })))
}

/// The network namespace from which a check of an endpoint asks: that of its own workload, else the agent's own. If a
/// workload says what is asked, never the agent's own, where programs listen that trust whoever reaches them; nor
/// anybody but the workload itself: the agent's sockets pass the policies that hold for it.
///
/// # Errors
/// There is no such place now, or nobody may be asked so.
pub(super) fn place(
    snapshot: &Snapshot,
    endpoint: &Endpoint,
    check: &Check,
    host: &Arc<Netns>,
) -> Result<Arc<Netns>, String> {
    let is_of_workload = endpoint.is_of_workload();
    let mut workloads = snapshot.workloads.values();
    let own = workloads.find(|it| {
        let is_near = it.metadata.namespace == endpoint.metadata.namespace;
        it.spec.addresses.contains(&endpoint.spec.address) && (is_near || !is_of_workload)
    });
    let addresses = own.map_or(&[][..], |it| &it.spec.addresses);
    let netns = own.and_then(|it| it.spec.netns.as_ref());
    match netns {
        Some(_) if is_of_workload && !check.stays_at(addresses) => {
            Err("what a workload says is asked at its own addresses and localhost only".to_owned())
        }
        Some(path) => Netns::open(path).map(Arc::new).map_err(|error| {
            let path = path.display();
            format!("the network namespace {path} of its workload cannot be entered: {error}")
        }),
        None if is_of_workload => {
            Err("its workload, from where it is to be checked, is gone".to_owned())
        }
        None => Ok(Arc::clone(host)),
    }
}

/// How the one stands whose health is taken over.
pub(super) fn alias(snapshot: &Snapshot, endpoint: &Endpoint, target: &AliasTarget) -> Shown {
    let namespace = target.namespace.as_ref();
    let namespace = namespace.unwrap_or(&endpoint.metadata.namespace);
    if let Some(name) = &target.endpoint {
        let key = ObjectKey::new(namespace, name);
        let Some(other) = snapshot.endpoints.get(&key) else {
            return shown(
                HealthStatus::Critical,
                format!("there is no Endpoint {key}"),
            );
        };
        return match &other.status.health {
            Some(health) => shown(health.status, format!("Endpoint {key}: {}", health.output)),
            None => shown(
                HealthStatus::Passing,
                format!("Endpoint {key} has no checks"),
            ),
        };
    }
    let key = ObjectKey::new(namespace, target.service.clone().unwrap_or_default());
    let Some(service) = snapshot.services.get(&key) else {
        return shown(HealthStatus::Critical, format!("there is no Service {key}"));
    };
    let availability = service.status.availability.as_ref();
    if availability.is_some_and(|it| it.view == View::Up) {
        shown(HealthStatus::Passing, format!("Service {key} is up"))
    } else {
        shown(HealthStatus::Critical, format!("Service {key} is down"))
    }
}

const fn shown(status: HealthStatus, output: String) -> Shown {
    Shown { status, output }
}

/// Whom an alias follows.
pub(super) fn followed(endpoint: &Endpoint, target: &AliasTarget) -> (bool, ObjectKey) {
    let namespace = target.namespace.as_ref();
    let namespace = namespace.unwrap_or(&endpoint.metadata.namespace);
    match &target.endpoint {
        Some(name) => (true, ObjectKey::new(namespace, name)),
        None => (
            false,
            ObjectKey::new(namespace, target.service.clone().unwrap_or_default()),
        ),
    }
}

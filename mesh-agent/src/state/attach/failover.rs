//! Whether a service that is to take over can.

use super::Problem;
use crate::state::Snapshot;
use crate::state::object::{Kind, ObjectKey};
use crate::state::reference::{Backend, Referrer};
use crate::state::service::{Port, Protocol, Service};
use crate::state::traffic_policy::TrafficPolicy;
use crate::state::traffic_policy::balancing::Failover;

impl Snapshot {
    /// Whether a service takes over for at least one port of the target of `policy`, or why not. It does for a port
    /// where it has the wanted number, and speaks the same there.
    pub fn takes_over(&self, policy: &TrafficPolicy, failover: &Failover) -> Result<(), Problem> {
        let namespace = &policy.metadata.namespace;
        let from = Referrer {
            kind: Kind::TrafficPolicy,
            namespace,
            parents: &[],
        };
        let (spare, _) = self.backend(from, &Backend::from(failover))?;
        let target = ObjectKey::new(namespace, &policy.spec.target.name);
        let Some(target) = self.services.get(&target) else {
            return Ok(());
        };
        let mut failures = ports(target).map(|port| {
            let number = failover.port.unwrap_or(port.port);
            stands_in(spare, number, port)
        });
        match failures.next() {
            Some(Err(first)) if failures.all(|it| it.is_err()) => Err(first),
            _ => Ok(()),
        }
    }
}

/// Whether the port `number` of `spare` takes what is meant for `port`.
fn stands_in(spare: &Service, number: u16, port: &Port) -> Result<(), Problem> {
    let key = spare.key();
    let Some(found) = ports(spare).find(|it| it.port == number) else {
        let message = format!("Service {key} has no port {number}");
        return Err(Problem::new("BackendNotFound", message));
    };
    let (theirs, ours) = (found.protocol, port.protocol);
    if theirs.takes_over(ours) {
        return Ok(());
    }
    let message = format!(
        "port {number} of Service {key} is {}, and cannot take over for {}",
        theirs.as_str(),
        ours.as_str()
    );
    Err(Problem::new("UnsupportedProtocol", message))
}

/// The ports that take connections.
fn ports(service: &Service) -> impl Iterator<Item = &Port> {
    let ports = service.spec.ports.iter();
    ports.filter(|it| it.protocol != Protocol::Udp)
}

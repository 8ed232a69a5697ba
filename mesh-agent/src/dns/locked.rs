//! Workloads whose egress is locked: which resolvers they may mean.
//!
//! Whatever a workload sends to port 53 comes to the agent. Did the agent pass it on to whom the workload names, anything
//! could leave that way.

use std::net::SocketAddr;

use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::workload::{Egress, Exit};

/// Whether the workload with a number may not dial `resolver`. It may where it is not locked; else only its own host,
/// services, and what it is let out to.
pub(super) fn is_beyond(snapshot: &Snapshot, workload: u32, resolver: SocketAddr) -> bool {
    let workload = match snapshot.ids.subject(workload) {
        Some(Subject::Workload(key)) => snapshot.workloads.get(key),
        _ => None,
    };
    // Nobody knows what one may that has just gone.
    let Some(workload) = workload else {
        return true;
    };
    let ip = resolver.ip().to_canonical();
    let is_let_out = |exit: &Exit| {
        let has_port = exit.ports.is_empty() || exit.ports.contains(&resolver.port());
        has_port && exit.cidr.contains(&ip)
    };
    workload.spec.egress == Egress::Locked
        && !ip.is_loopback()
        && snapshot.service_at(ip).is_none()
        && !workload.spec.egress_allow.iter().any(is_let_out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::object::ObjectKey;
    use crate::traffic::fixture::Fixture;

    #[test]
    fn a_locked_workload_may_mean_its_host_services_and_what_it_is_let_out_to() {
        let exits = json!([{"cidr": "192.0.2.0/24", "ports": [53]}, {"cidr": "198.51.100.1/32", "ports": [443]}]);
        let ports = json!([{"name": "dns", "port": 53, "protocol": "udp"}]);
        let snapshot = Fixture::default()
            .workload("open", &json!({"netns": "/a"}))
            .workload(
                "locked",
                &json!({"netns": "/b", "egress": "locked", "egressAllow": exits}),
            )
            .service("dns", &json!({"addresses": ["240.0.0.53"], "ports": ports}))
            .snapshot();
        let number = |name: &str| {
            let subject = Subject::Workload(ObjectKey::new("shop", name));
            snapshot.ids.number(&subject)
        };
        let is_beyond = |name: &str, resolver: &str| {
            is_beyond(&snapshot, number(name), resolver.parse().unwrap())
        };
        for resolver in [
            "127.0.0.53:53",
            "[::1]:53",
            "240.0.0.53:53",
            "192.0.2.7:53",
            "[::ffff:192.0.2.7]:53",
        ] {
            assert!(!is_beyond("locked", resolver), "{resolver}");
        }
        for resolver in ["192.0.3.7:53", "198.51.100.1:53", "[2001:db8::1]:53"] {
            assert!(is_beyond("locked", resolver), "{resolver}");
            assert!(!is_beyond("open", resolver), "{resolver}");
            assert!(is_beyond("gone", resolver), "{resolver}");
        }
    }
}

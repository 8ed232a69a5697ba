//! What `exec` makes, and how it judges what it finds. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::command::Problem;
use crate::config::cli::{Exec, FailModeName};
use crate::state::endpoint::{Endpoint, EndpointSpec, EndpointStatus};
use crate::state::object::{
    API_VERSION, Condition, ConditionStatus, Kind, Metadata, Object, ObjectKey, Texts,
};
use crate::state::service::{Port, Protocol, Service, ServiceSpec, ServiceStatus};
use crate::state::source::Source;
use crate::state::workload::{Egress, FailMode, Workload, WorkloadSpec, WorkloadStatus};

/// One run of a command.
#[derive(Debug)]
pub(super) struct Plan {
    /// Name of the workload.
    pub(super) key: ObjectKey,
    /// Name of its endpoint. Where several nodes share a registry they share endpoints, and each has its own of that workload.
    pub(super) endpoint_key: ObjectKey,
    /// The name of this node in the registry that several share.
    node: Option<String>,
    /// The cgroup of its own.
    pub(super) cgroup: PathBuf,
    /// What it serves.
    pub(super) serves: Option<Serves>,
    address: IpAddr,
    acceleration: bool,
    fail_mode: FailMode,
}

/// What the command serves.
#[derive(Debug)]
pub(super) struct Serves {
    pub(super) service: String,
    pub(super) port: u16,
}

impl Plan {
    pub(super) fn new(exec: &Exec, root: &Path, pid: u32, address: IpAddr) -> Self {
        let directory = format!("mesh-exec-{}-{}-{pid}", exec.namespace, exec.workload);
        Self {
            key: ObjectKey::new(&exec.namespace, &exec.workload),
            endpoint_key: ObjectKey::new(&exec.namespace, &exec.workload),
            node: None,
            cgroup: root.join(directory),
            serves: exec
                .service
                .clone()
                .zip(exec.port)
                .map(|(service, port)| Serves { service, port }),
            address,
            acceleration: exec.acceleration,
            fail_mode: match exec.fail_mode {
                FailModeName::Open => FailMode::Open,
                FailModeName::Closed => FailMode::Closed,
            },
        }
    }

    /// The same on a node that shares a registry with others.
    pub(super) fn on(mut self, node: Option<String>) -> Self {
        let suffix = node.as_deref().map(as_name).unwrap_or_default();
        if !suffix.is_empty() {
            self.endpoint_key.name = format!("{}.{suffix}", self.key.name);
        }
        self.node = node;
        self
    }

    /// Whether an endpoint that is there is an earlier one of `exec`, and of this node.
    pub(super) fn may_replace(&self, endpoint: &Metadata) -> bool {
        let is_elsewhere = endpoint.source == Source::Etcd
            && !endpoint.origin.is_empty()
            && self.node.as_ref() != Some(&endpoint.origin);
        is_ours(endpoint) && !is_elsewhere
    }

    pub(super) fn workload(&self) -> Workload {
        let spec = WorkloadSpec {
            dns: true,
            netns: None,
            cgroup: Some(self.cgroup.clone()),
            addresses: vec![self.address],
            service_account: self.key.name.clone(),
            fail_mode: self.fail_mode,
            acceleration: self.acceleration,
            egress: Egress::default(),
            egress_allow: Vec::new(),
            registry_access: false,
        };
        self.object(
            Kind::Workload,
            &self.key.name,
            spec,
            WorkloadStatus::default(),
        )
    }

    pub(super) fn endpoint(&self, serves: &Serves, port_name: &str) -> Endpoint {
        let spec = EndpointSpec {
            ports: BTreeMap::from([(port_name.to_owned(), serves.port)]),
            ..EndpointSpec::new(&serves.service, self.address)
        };
        self.object(
            Kind::Endpoint,
            &self.endpoint_key.name,
            spec,
            EndpointStatus::default(),
        )
    }

    /// The service as it is made where there is none.
    pub(super) fn service(&self, serves: &Serves) -> Service {
        let spec = ServiceSpec::new(vec![Port {
            name: PORT_NAME.to_owned(),
            port: serves.port,
            protocol: Protocol::Auto,
        }]);
        self.object(
            Kind::Service,
            &serves.service,
            spec,
            ServiceStatus::default(),
        )
    }

    fn object<S, T: Default>(&self, kind: Kind, name: &str, spec: S, status: T) -> Object<S, T> {
        let made_by = Texts::from_iter([(MADE_BY.to_owned(), EXEC.to_owned())]);
        Object {
            api_version: API_VERSION.to_owned(),
            kind,
            metadata: Metadata {
                name: name.to_owned(),
                namespace: self.key.namespace.clone(),
                annotations: made_by,
                ..Metadata::default()
            },
            spec,
            status,
        }
    }
}

/// The name of a node as a part of the name of an object.
fn as_name(node: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '.') => c,
        _ => '-',
    };
    let plain: String = node.chars().map(plain).collect();
    let labels = plain.split('.').map(|label| label.trim_matches('-'));
    let labels: Vec<&str> = labels.filter(|label| !label.is_empty()).collect();
    labels.join(".")
}

/// Whether `exec` has made an object, so that it may replace it.
pub(super) fn is_ours(metadata: &Metadata) -> bool {
    metadata.annotations.get(MADE_BY).map(String::as_str) == Some(EXEC)
}

/// Whether the agent refuses an object because of an address.
pub(super) fn is_about_address(problem: &Problem) -> bool {
    let field = problem.field.as_deref();
    field.is_some_and(|field| field.starts_with("spec.addresses"))
}

/// The name of the service's port that a command on `port` serves: the only one, or the one with that number.
pub(super) fn port_of(ports: &[Port], port: u16) -> Option<String> {
    let found = match ports {
        [only] => Some(only),
        several => several.iter().find(|candidate| candidate.port == port),
    };
    found.map(|port| port.name.clone())
}

/// How far the agent is with a workload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Enrolment {
    /// Its listeners stand and the kernel knows it.
    Done,
    /// Not yet, and this is what is known.
    Pending(String),
    /// It never will be, for this reason.
    Refused(String),
}

/// Reads how far the agent is from the workload's conditions.
pub(super) fn enrolment(workload: &Workload) -> Enrolment {
    let current = workload.metadata.generation;
    let find = |kind: &str| {
        let mut conditions = workload.status.conditions.iter();
        // What was said of an earlier version of the object does not count.
        conditions.find(|condition| {
            condition.kind == kind
                && (condition.observed_generation == 0 || condition.observed_generation >= current)
        })
    };
    let said = |condition: &Condition| match condition.message.as_str() {
        "" => condition.reason.clone(),
        message => format!("{}: {message}", condition.reason),
    };
    if let Some(accepted) = find("Accepted")
        && accepted.status == ConditionStatus::False
    {
        return Enrolment::Refused(said(accepted));
    }
    match find("Enrolled") {
        Some(enrolled) if enrolled.status == ConditionStatus::True => Enrolment::Done,
        Some(enrolled) => Enrolment::Pending(said(enrolled)),
        None => Enrolment::Pending("the agent has not looked at it".to_owned()),
    }
}

/// Name of the port of a service that `exec` makes.
pub(super) const PORT_NAME: &str = "main";
const MADE_BY: &str = "mesh.dev/made-by";
const EXEC: &str = "exec";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cli::{Cli, Command};

    #[test]
    fn the_workload_has_a_cgroup_of_its_own_and_its_name_as_account() {
        let plan = plan("--workload client --namespace shop --acceleration --fail-mode closed");
        let workload = plan.workload();
        assert_eq!(
            workload.spec.cgroup.as_deref(),
            Some(Path::new("/cg/mesh-exec-shop-client-42"))
        );
        assert_eq!(workload.spec.service_account, "client");
        assert_eq!(workload.spec.fail_mode, FailMode::Closed);
        assert!(workload.spec.acceleration && is_ours(&workload.metadata));
        assert!(plan.serves.is_none());
    }

    #[test]
    fn the_endpoint_maps_the_port_of_the_service_to_the_command() {
        let plan = plan("--workload web-1 --service web --port 8080");
        let serves = plan.serves.as_ref().expect("it serves");
        let endpoint = plan.endpoint(serves, "http");
        assert_eq!(
            endpoint.spec.ports,
            BTreeMap::from([("http".to_owned(), 8080)])
        );
        assert_eq!(endpoint.spec.service, "web");
        assert_eq!(endpoint.metadata.name, "web-1");
        let service = plan.service(serves);
        assert_eq!(
            port_of(&service.spec.ports, 8080).as_deref(),
            Some(PORT_NAME)
        );
    }

    #[test]
    fn each_node_of_a_shared_registry_has_an_endpoint_of_its_own() {
        let plan =
            plan("--workload web --service web --port 8080").on(Some("Rack_1.Example.".to_owned()));
        assert_eq!(plan.workload().metadata.name, "web");
        let serves = plan.serves.as_ref().expect("it serves");
        let mut endpoint = plan.endpoint(serves, "http");
        assert_eq!(endpoint.metadata.name, "web.rack-1.example");
        assert_eq!(endpoint.metadata.name, plan.endpoint_key.name);
        endpoint.metadata.source = Source::Etcd;
        endpoint.metadata.origin = "Rack_1.Example.".to_owned();
        assert!(plan.may_replace(&endpoint.metadata));
        endpoint.metadata.origin = "rack-1.example".to_owned();
        assert!(!plan.may_replace(&endpoint.metadata), "another node's");
        assert_eq!(as_name("-._"), "");
    }

    #[test]
    fn the_only_port_serves_whatever_its_number_and_several_are_told_apart() {
        let port = |name: &str, port| Port {
            name: name.to_owned(),
            port,
            protocol: Protocol::Auto,
        };
        assert_eq!(port_of(&[port("a", 80)], 8080).as_deref(), Some("a"));
        let two = [port("a", 80), port("b", 90)];
        assert_eq!(port_of(&two, 90).as_deref(), Some("b"));
        assert_eq!(port_of(&two, 8080), None);
        assert_eq!(port_of(&[], 80), None);
    }

    #[test]
    fn only_conditions_of_this_version_count() {
        let mut workload = plan("--workload a").workload();
        workload.metadata.generation = 2;
        assert!(matches!(enrolment(&workload), Enrolment::Pending(_)));
        workload.status.conditions = vec![condition("Enrolled", ConditionStatus::True, 1)];
        assert!(matches!(enrolment(&workload), Enrolment::Pending(_)));
        workload.status.conditions = vec![condition("Enrolled", ConditionStatus::True, 2)];
        assert_eq!(enrolment(&workload), Enrolment::Done);
        workload.status.conditions = vec![
            condition("Enrolled", ConditionStatus::False, 2),
            condition("Accepted", ConditionStatus::False, 2),
        ];
        assert_eq!(
            enrolment(&workload),
            Enrolment::Refused("Why: text".to_owned())
        );
    }

    fn condition(kind: &str, status: ConditionStatus, observed_generation: u64) -> Condition {
        Condition {
            kind: kind.to_owned(),
            status,
            reason: "Why".to_owned(),
            message: "text".to_owned(),
            observed_generation,
        }
    }

    fn plan(flags: &str) -> Plan {
        let words = format!("mesh-agent exec {flags} -- true");
        let cli = Cli::from_words(words.split_whitespace()).expect(&words);
        let Command::Exec(exec) = cli.command else {
            panic!("it is exec")
        };
        let address = "10.0.0.2".parse().expect("it is an address");
        Plan::new(&exec, Path::new("/cg"), 42, address)
    }
}

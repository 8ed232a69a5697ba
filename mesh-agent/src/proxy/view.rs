//! What the proxy reads of the registry: compiled from a snapshot, so that the request path looks up one thing.
//!
//! What lives longer than a snapshot (load, ejection, learned protocols, handles to series) hangs on numbers that are
//! never given twice, and moves from view to view.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;
use mesh_common::address::{Address, SocketAddress};

use super::limits::Usage;
use super::metrics::Series;
use super::policy::Policy;
use super::policy::balancing::Subsets;
use crate::state::Snapshot;
use crate::state::attach;
use crate::state::endpoint;
use crate::state::endpoint::{Lifecycle, Locality};
use crate::state::object::ObjectKey;
use crate::state::reference::misfit;
use crate::state::service::{Protocol, Service};
use crate::state::traffic_policy::balancing::Subset;
use crate::state::workload;
use crate::telemetry::access_log::Known;
use crate::traffic::authz;
use crate::traffic::balance::plan::Plan;
use crate::traffic::hedge::{self, Usual};
use crate::traffic::route::split::{Stranger, Target};
use crate::traffic::route::stream::StreamTable;
use crate::traffic::session;

pub(crate) mod cell;
mod compile;
mod live;
mod memory;
pub(crate) mod plans;
mod policies;
pub(crate) mod routes;

use live::SeriesKey;
pub(crate) use live::{Active, Live};
pub(crate) use memory::{Learned, Memory};

use plans::{Layouts, Plans};
use routes::{HttpRoutes, PortRoutes, Routes};

/// A table that is read per request.
pub(crate) type Table<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A table that is read per request, and shares with that of the next view what does not change.
pub(crate) type SharedTable<K, V> =
    GenericHashMap<K, V, foldhash::fast::RandomState, DefaultSharedPtr>;

/// One immutable view. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// What it was compiled from.
    snapshot: Snapshot,
    /// What can be dialled.
    ports: SharedTable<SocketAddress, Arc<ServicePort>>,
    /// The same by service, with the numbers of the ports.
    services: SharedTable<ObjectKey, Vec<Arc<ServicePort>>>,
    /// Where this node is.
    here: Arc<Locality>,
    /// Where requests and connections for services go, if not to the service itself.
    pub(super) routes: Routes,
    /// Callers by number.
    workloads: SharedTable<u32, Arc<Workload>>,
    /// What endpoints remember, by number.
    lives: SharedTable<u32, Arc<Live>>,
    /// What holds for services that have a traffic policy.
    pub(super) policies: SharedTable<ObjectKey, Arc<Policy>>,
    /// What holds for all others.
    no_policy: Arc<Policy>,
    /// Who may connect to whom.
    pub(crate) authz: authz::Compiled,
}

impl View {
    /// The write that made the snapshot.
    pub(crate) const fn revision(&self) -> u64 {
        self.snapshot.revision
    }

    /// What it was compiled from.
    pub(crate) const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The service port that answers at an address and port.
    pub(crate) fn port(&self, dialled: &SocketAddress) -> Option<&Arc<ServicePort>> {
        self.ports.get(dialled)
    }

    /// Every service port.
    pub(crate) fn service_ports(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        self.services.values().flatten()
    }

    /// The service ports of services that have a traffic policy. Costs as much as there are policies.
    pub(crate) fn governed_ports(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        let services = self.policies.keys();
        services.filter_map(|key| self.services.get(key)).flatten()
    }

    /// The port of a service with a number.
    pub(crate) fn port_of(&self, service: &ObjectKey, port: u16) -> Option<&Arc<ServicePort>> {
        self.services
            .get(service)?
            .iter()
            .find(|it| it.port == port)
    }

    /// The service port that a route sends to, if it may.
    pub(crate) fn backend(&self, target: &Target) -> Option<&Arc<ServicePort>> {
        if !self.permits(target.stranger.as_deref(), &target.service) {
            return None;
        }
        let port = match target.port {
            Some(port) => self.port_of(&target.service, port),
            None => self.services.get(&target.service)?.first(),
        };
        port.filter(|port| misfit(target.kind, port.protocol).is_none())
    }

    /// Whether a service may be sent to; by all who need no permission.
    pub(crate) fn permits(&self, stranger: Option<&Stranger>, service: &ObjectKey) -> bool {
        stranger.is_none_or(|it| {
            attach::is_granted(
                &self.snapshot.reference_grants,
                it.kind,
                &it.namespace,
                service,
            )
        })
    }

    /// The workload with a number.
    pub(crate) fn workload(&self, number: u32) -> Option<&Arc<Workload>> {
        self.workloads.get(&number)
    }

    /// Whether anything is under way at an endpoint.
    pub(crate) fn is_held(&self, number: u32) -> bool {
        self.lives.get(&number).is_some_and(|live| live.is_held())
    }

    /// Whether an endpoint is still part of the registry.
    pub(crate) fn has_endpoint(&self, number: u32) -> bool {
        self.lives.contains_key(&number)
    }
}

/// A workload of this node.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Its number, zero for one that is not in the registry.
    pub(crate) number: u32,
    /// What names it.
    pub(crate) key: ObjectKey,
    /// Its identity, with the namespace.
    pub(crate) service_account: String,
    /// `app` and `version` of its labels.
    pub(crate) app: Option<String>,
    /// `version` of its labels.
    pub(crate) version: Option<String>,
    /// First IPv4 address, as policy sees it.
    pub(crate) ipv4: Address,
    /// First IPv6 address, as policy sees it.
    pub(crate) ipv6: Address,
    /// Whether its sockets may be paired.
    pub(crate) is_accelerated: bool,
    /// Another where its series have other labels.
    pub(crate) labels_id: u64,
    /// What it holds.
    pub(crate) usage: Arc<Usage>,
    /// What it was compiled from.
    pub(crate) object: Option<Arc<workload::Workload>>,
}

/// One port of a service.
#[derive(Debug)]
pub(crate) struct ServicePort {
    /// Number of the service.
    pub(crate) service_number: u32,
    /// Number of the port, as the kernel knows it.
    pub(crate) number: u32,
    /// The port that is dialled.
    pub(crate) port: u16,
    /// What names the service.
    pub(crate) service: ObjectKey,
    /// `NAME.NAMESPACE.mesh`.
    pub(crate) host: String,
    /// What is declared of its protocol.
    pub(crate) protocol: Protocol,
    /// Who serves it.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Those that take connections, laid out for choices.
    pub(crate) layouts: Layouts,
    /// Index of each endpoint by the number that sessions have for it; made when a session is first asked for.
    sessions: OnceLock<Table<u64, u32>>,
    /// How it is balanced, guarded and shaped; one for all ports of the service.
    pub(crate) policy: Arc<Policy>,
    /// Where its requests and connections go, if not to its own endpoints.
    routes: Option<Arc<PortRoutes>>,
    /// Whose turn it is, and what was learned.
    pub(crate) memory: Arc<Memory>,
    /// What it was compiled from.
    object: Arc<Service>,
}

impl ServicePort {
    /// The routes for requests of callers in a namespace; none: they go to the service itself.
    pub(crate) fn http_routes(&self, caller: &str) -> Option<&HttpRoutes> {
        self.routes.as_ref()?.http(caller)
    }

    /// The routes for opaque connections of callers in a namespace; none: they go to the service itself.
    pub(crate) fn stream_routes(&self, caller: &str) -> Option<&StreamTable> {
        self.routes.as_ref()?.streams(caller)
    }

    /// Whether connections of callers in a namespace are not looked into: a TCP route has them, whatever they speak,
    /// and no other tells requests apart.
    pub(crate) fn is_opaque_by_route(&self, caller: &str) -> bool {
        self.stream_routes(caller).is_some_and(StreamTable::has_all)
            && self.http_routes(caller).is_none()
    }

    /// The time within which this many of a thousand answers of an endpoint usually come; absent while nobody knows.
    pub(crate) fn usual(&self, permille: u32, now_ns: u64) -> Option<Duration> {
        let usual = self.memory.usual.find_or_make(&permille, Usual::default);
        usual.get(now_ns, || {
            let of_each = self.endpoints.iter();
            let of_each = of_each.filter_map(|endpoint| endpoint.live.vitals.quantile(permille));
            hedge::usual(of_each.collect())
        })
    }

    /// The endpoints that connections are offered to.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let members = self.layouts.members();
        members.filter_map(|index| self.endpoints.get(index))
    }

    /// Whether anyone takes requests who is well, of the subsets that are wanted.
    pub(crate) fn has_anyone_well(&self, wanted: Option<&Subsets>) -> bool {
        let is_well = |index: &u32| {
            let index = usize::try_from(*index).ok();
            let endpoint = index.and_then(|index| self.endpoints.get(index));
            endpoint.is_some_and(|endpoint| endpoint.live.is_well())
        };
        let has_any = |plans: &Plans| plans.iter().flat_map(Plan::indexes).any(is_well);
        match wanted {
            Some(wanted) => has_any(&self.layouts.of_route(wanted, &self.endpoints)),
            None => has_any(self.layouts.own()),
        }
    }

    /// The index of the endpoint that a session has this number for.
    pub(crate) fn session_index(&self, number: u64) -> Option<u32> {
        let sessions = self.sessions.get_or_init(|| {
            let numbers = self.endpoints.iter().map(|it| it.session_number());
            numbers.zip(0..).collect()
        });
        sessions.get(&number).copied()
    }
}

/// One endpoint of a service port.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Its number.
    pub(crate) number: u32,
    /// What names it.
    pub(crate) key: ObjectKey,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its share.
    pub(crate) weight: u32,
    /// Version of what runs there.
    pub(crate) version: Option<String>,
    /// The workload that has its address, if it is on this node.
    pub(crate) workload: Option<Arc<Workload>>,
    /// What it remembers.
    pub(crate) live: Arc<Live>,
    /// Another where its series have other labels.
    labels_id: u64,
    /// How the access log has it.
    pub(crate) logged: Known,
    /// What it was compiled from.
    object: Arc<endpoint::Endpoint>,
}

impl Endpoint {
    /// The series of a caller.
    pub(crate) fn series(&self, caller: &Workload, make: impl FnOnce() -> Series) -> Arc<Series> {
        let key = SeriesKey::new(caller, self.labels_id);
        self.live.series.find_or_make(&key, make)
    }

    /// Whether it takes requests, in one word for people.
    pub(crate) fn state(&self) -> &'static str {
        match () {
            () if self.object.lifecycle() == Lifecycle::Draining => "draining",
            () if self.object.lifecycle() == Lifecycle::Starting => "starting",
            () if self.object.spec.maintenance.is_some() => "maintenance",
            () if self.weight == 0 => "weightless",
            () if self.live.vitals.is_critical() => "critical",
            () if self.live.vitals.is_ejected() => "ejected",
            () => "ready",
        }
    }

    /// Whether it has the version and labels of a subset.
    pub(crate) fn is_in(&self, subset: &Subset) -> bool {
        subset.has(&self.object)
    }

    /// The number that sessions have for it.
    pub(crate) fn session_number(&self) -> u64 {
        let service = ObjectKey::new(&self.key.namespace, &self.object.spec.service);
        session::number(&service, &self.key, self.address)
    }
}

/// The address as policy sees it.
pub(crate) fn first_of(addresses: &[IpAddr], is_v4: bool) -> Address {
    addresses
        .iter()
        .find(|address| address.is_ipv4() == is_v4)
        .map_or(Address::UNSPECIFIED, |address| (*address).into())
}

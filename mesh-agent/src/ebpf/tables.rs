//! Every map that the agent reads or writes.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use mesh_common::address::Address;
use mesh_common::conn::{Conn, Tuple};
use mesh_common::egress::EgressKey;
use mesh_common::endpoint::Endpoint;
use mesh_common::flow::{Flow, FlowKey, Query, QueryKey};
use mesh_common::names::map;
use mesh_common::policy::{Policy, PolicyKey};
use mesh_common::redirect::{Peer, Redirect};
use mesh_common::service::{ListenerKey, Service, ServiceKey, SlotKey};
use mesh_common::settings::Settings;
use mesh_common::stats::StatKey;
use mesh_common::workload::Workload;

use super::table::{PerCpuTable, Table, TableError};
use super::{Error, sys};
use crate::state::report::MapReport;

/// The maps; `mesh-ebpf/src/maps.rs` says who writes and reads each.
#[derive(Debug)]
pub struct Tables {
    /// One entry, key 0.
    pub settings: Table<u32, Settings>,
    /// By cookie of the network namespace.
    pub workloads: Table<u64, Workload>,
    /// By number of the cgroup.
    pub cgroups: Table<u64, Workload>,
    /// Who has an address.
    pub identities: Table<Address, Workload>,
    /// What may be dialled.
    pub services: Table<ServiceKey, Service>,
    /// Numbers of endpoints.
    pub slots: Table<SlotKey, u32>,
    /// Endpoints by number.
    pub endpoints: Table<u32, Endpoint>,
    /// Open connections by number of the endpoint.
    pub open: Table<u32, u64>,
    /// Round-robin cursors by number of the port.
    pub cursors: Table<u32, u64>,
    /// Who may call.
    pub policy: Table<PolicyKey, Policy>,
    /// By file descriptor of the socket.
    pub conn: Table<i32, Conn>,
    /// Between SYN and accept.
    pub pending: Table<Tuple, Conn>,
    /// What datagram sockets exchange with whom.
    pub replies: Table<FlowKey, Flow>,
    /// Whom questions for names are for.
    pub queries: Table<QueryKey, Query>,
    /// What locked workloads may dial beside services.
    pub egress: Table<EgressKey, u32>,
    /// The agent's listeners, by file descriptor (write only).
    pub listeners: Table<ListenerKey, u32>,
    /// Paired sockets (keys only).
    pub sockets: Table<Tuple, u32>,
    /// Where paired sockets are.
    pub peers: Table<Tuple, Peer>,
    /// By file descriptor of the socket.
    pub redirects: Table<i32, Redirect>,
    /// Directions that have gone back from redirection to TCP: the one value of its map, as the kernel counts it.
    pub fallbacks: &'static AtomicU64,
    /// Counters.
    pub stats: PerCpuTable<StatKey>,
}

impl Tables {
    /// Opens the maps pinned in `directory`.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self {
            settings: Table::open(directory, map::SETTINGS)?,
            workloads: Table::open(directory, map::WORKLOADS)?,
            cgroups: Table::open(directory, map::CGROUPS)?,
            identities: Table::open(directory, map::IDENTITIES)?,
            services: Table::open(directory, map::SERVICES)?,
            slots: Table::open(directory, map::SLOTS)?,
            endpoints: Table::open(directory, map::ENDPOINTS)?,
            open: Table::open(directory, map::OPEN)?,
            cursors: Table::open(directory, map::CURSORS)?,
            policy: Table::open(directory, map::POLICY)?,
            conn: Table::open(directory, map::CONN)?,
            pending: Table::open(directory, map::PENDING)?,
            replies: Table::open(directory, map::REPLIES)?,
            queries: Table::open(directory, map::QUERIES)?,
            egress: Table::open(directory, map::EGRESS)?,
            listeners: Table::open(directory, map::LISTENERS)?,
            sockets: Table::open(directory, map::SOCKETS)?,
            peers: Table::open(directory, map::PEERS)?,
            redirects: Table::open(directory, map::REDIRECTS)?,
            fallbacks: counter(directory, map::FALLBACKS)?,
            stats: PerCpuTable::open(directory, map::STATS)?,
        })
    }

    /// Entries and capacity of every map that has keys of its own.
    pub fn reports(&self) -> Result<Vec<MapReport>, TableError> {
        Ok(vec![
            report(&self.workloads)?,
            report(&self.cgroups)?,
            report(&self.identities)?,
            report(&self.services)?,
            report(&self.slots)?,
            report(&self.endpoints)?,
            report(&self.open)?,
            report(&self.cursors)?,
            report(&self.policy)?,
            report(&self.pending)?,
            report(&self.replies)?,
            report(&self.queries)?,
            report(&self.egress)?,
            report(&self.listeners)?,
            report(&self.sockets)?,
            report(&self.peers)?,
            MapReport {
                name: self.stats.name().to_owned(),
                entries: count(self.stats.entries()?.len()),
                capacity: u64::from(self.stats.capacity()),
            },
        ])
    }
}

/// The value of a map that has one, to be read without a call. It stays mapped for as long as the process runs.
fn counter(directory: &Path, name: &'static str) -> Result<&'static AtomicU64, Error> {
    let table = Table::<u32, u64>::open(directory, name)?;
    sys::map_counter(table.as_fd()).map_err(|source| Error::Pin {
        path: directory.join(name),
        source,
    })
}

fn report<K: aya::Pod, V: aya::Pod>(table: &Table<K, V>) -> Result<MapReport, TableError> {
    Ok(MapReport {
        name: table.name().to_owned(),
        entries: count(table.count()?),
        capacity: u64::from(table.capacity()),
    })
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

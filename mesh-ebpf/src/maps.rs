//! Every map: who writes it, who reads it, what happens when it is full.
//!
//! "Agent" is the agent of the node. Maps are pinned and outlive it. Names, keys and values are those of
//! `mesh_common::names::map`.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuHashMap, RingBuf, SockHash};
use mesh_common::address::Address;
use mesh_common::conn::{Conn, Tuple};
use mesh_common::egress::Exit;
use mesh_common::endpoint::Endpoint;
use mesh_common::flow::{Flow, FlowKey, Query, QueryKey};
use mesh_common::policy::{Policy, PolicyKey};
use mesh_common::redirect::{Peer, Redirect};
use mesh_common::service::{ListenerKey, Service, ServiceKey, SlotKey};
use mesh_common::settings::Settings;
use mesh_common::stats::StatKey;
use mesh_common::workload::Workload;

/// Written by the agent (switches, heartbeat), read by every program. One entry.
#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Written by the agent, read at connect and by the guard. Full: the enrolment is refused.
#[map]
pub(crate) static WORKLOADS: HashMap<u64, Workload> = HashMap::with_max_entries(4096, 0);

/// Written by the agent, read at connect and by the guard, for the agent's own namespace. Full: the enrolment is
/// refused.
#[map]
pub(crate) static CGROUPS: HashMap<u64, Workload> = HashMap::with_max_entries(4096, 0);

/// Written by the agent, read by every decision about a peer. Full: that address has no identity, and matches only
/// rules that ask for none.
#[map]
pub(crate) static IDENTITIES: HashMap<Address, Workload> =
    HashMap::with_max_entries(128 * 1024, BPF_F_NO_PREALLOC);

/// Written by the agent, read at connect. Full: the port is not in the mesh, and its condition says so.
#[map]
pub(crate) static SERVICES: HashMap<ServiceKey, Service> =
    HashMap::with_max_entries(32 * 1024, BPF_F_NO_PREALLOC);

/// Written by the agent under a new generation before the service's entry is replaced, read at connect. Full: the
/// service keeps its old endpoints.
#[map]
pub(crate) static SLOTS: HashMap<SlotKey, u32> =
    HashMap::with_max_entries(256 * 1024, BPF_F_NO_PREALLOC);

/// Written by the agent, read at connect. Full: the endpoint takes no direct connections.
#[map]
pub(crate) static ENDPOINTS: HashMap<u32, Endpoint> =
    HashMap::with_max_entries(128 * 1024, BPF_F_NO_PREALLOC);

/// Written by `sock_ops`, entries removed by the agent with their endpoint; read at connect. Full: the endpoint's
/// connections are not counted.
#[map]
pub(crate) static OPEN: HashMap<u32, u64> =
    HashMap::with_max_entries(128 * 1024, BPF_F_NO_PREALLOC);

/// Written and read at connect, entries removed by the agent with their port. Full: slots are taken at random.
#[map]
pub(crate) static CURSORS: HashMap<u32, u64> =
    HashMap::with_max_entries(32 * 1024, BPF_F_NO_PREALLOC);

/// Written by the agent, read at connect and by `sk_lookup`. Full: the policy is not in force, and its condition says
/// so.
#[map]
pub(crate) static POLICY: HashMap<PolicyKey, Policy> =
    HashMap::with_max_entries(64 * 1024, BPF_F_NO_PREALLOC);

/// Written at connect, when a datagram is sent, by `sock_ops` (accepted sockets) and by the agent (its own sockets); read by every hook and, by
/// file descriptor, by the agent. Dies with the socket; never full.
#[btf_map]
pub(crate) static CONN: SkStorage<Conn> = SkStorage::new();

/// Written by `sock_ops` when a SYN is about to leave, read when the other end is accepted and by `sk_lookup`. Full:
/// the oldest entry goes; each is needed for one round trip.
#[map]
pub(crate) static PENDING: LruHashMap<Tuple, Conn> = LruHashMap::with_max_entries(64 * 1024, 0);

/// Written when a datagram is sent or received, read when the next one is. Full: the entry that was not used for longest
/// goes; its socket's next datagram is balanced anew, and a late answer shows the endpoint that sent it.
#[map]
pub(crate) static REPLIES: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(64 * 1024, 0);

/// Written when a question for names is sent to the agent, read by the agent when it arrives. Full: the entry that was not
/// used for longest goes; each is needed until the agent has read the datagram.
#[map]
pub(crate) static QUERIES: LruHashMap<QueryKey, Query> = LruHashMap::with_max_entries(16 * 1024, 0);

/// Written by the agent, read where a workload whose egress is locked dials what is no service. Full: the destination is
/// refused, and the condition of the workload says so.
#[map]
pub(crate) static EGRESS: LpmTrie<Exit, u32> = LpmTrie::with_max_entries(64 * 1024, 0);

/// Written by the agent, emptied by the kernel when the agent dies; read at connect to see whether it lives. Full: the
/// enrolment is refused.
#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(8192, 0);

/// Written by `sock_ops`, emptied by the kernel as sockets close; `sk_msg` redirects to its sockets. Full: the
/// connection is not accelerated.
#[map]
pub(crate) static SOCKETS: SockHash<Tuple> = SockHash::with_max_entries(64 * 1024, 0);

/// Written and removed by `sock_ops`, counted in by `sk_msg`. Full: the connection is not accelerated.
#[map]
pub(crate) static PEERS: HashMap<Tuple, Peer> =
    HashMap::with_max_entries(64 * 1024, BPF_F_NO_PREALLOC);

/// Written by `sk_msg`, read by `sock_ops` at close and, by file descriptor, by the agent. Dies with the socket; never
/// full.
#[btf_map]
pub(crate) static REDIRECTS: SkStorage<Redirect> = SkStorage::new();

/// Written by `sk_msg`, mapped by the agent: directions that have gone back from redirection to TCP. One entry, counted
/// before the first byte goes by TCP.
#[map]
pub(crate) static FALLBACKS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Bytes of `EVENTS`.
pub(crate) const EVENTS_BYTES: u32 = 1 << 20;

/// Written by every program, read by the agent. Full, or half full for records of what is not final: the record is
/// dropped and counted.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Written by every program, read by the agent, which takes out counters of objects that are gone. Full: new counters are lost
/// and counted as such, those that exist go on.
#[map]
pub(crate) static STATS: PerCpuHashMap<StatKey, u64> =
    PerCpuHashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

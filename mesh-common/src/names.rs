//! Names of programs and maps. A test compares them with the object file; `cargo xtask tidy` checks their length.

/// Kernel programs, one per hook.
pub mod program {
    /// `connect` on an IPv4 socket.
    pub const CONNECT4: &str = "mesh_connect4";
    /// `connect` on an IPv6 socket.
    pub const CONNECT6: &str = "mesh_connect6";
    /// `getpeername` on an IPv4 socket.
    pub const GETPEERNAME4: &str = "mesh_getpeer4";
    /// `getpeername` on an IPv6 socket.
    pub const GETPEERNAME6: &str = "mesh_getpeer6";
    /// A datagram sent to an IPv4 address.
    pub const SENDMSG4: &str = "mesh_sendmsg4";
    /// A datagram sent to an IPv6 address.
    pub const SENDMSG6: &str = "mesh_sendmsg6";
    /// The source of a datagram is shown to an IPv4 socket.
    pub const RECVMSG4: &str = "mesh_recvmsg4";
    /// The source of a datagram is shown to an IPv6 socket.
    pub const RECVMSG6: &str = "mesh_recvmsg6";
    /// Life of a TCP socket.
    pub const SOCK_OPS: &str = "mesh_sock_ops";
    /// A message sent on a paired socket.
    pub const SK_MSG: &str = "mesh_sk_msg";
    /// A connection that arrives in a workload's network namespace.
    pub const SK_LOOKUP: &str = "mesh_sk_lookup";
    /// A packet that leaves: the guard.
    pub const EGRESS: &str = "mesh_egress";

    /// All of them.
    pub const ALL: [&str; 12] = [
        CONNECT4,
        CONNECT6,
        GETPEERNAME4,
        GETPEERNAME6,
        SENDMSG4,
        SENDMSG6,
        RECVMSG4,
        RECVMSG6,
        SOCK_OPS,
        SK_MSG,
        SK_LOOKUP,
        EGRESS,
    ];
}

/// Maps; `mesh-ebpf/src/maps.rs` says what each holds.
pub mod map {
    /// One [`Settings`](crate::settings::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// Network namespace cookie to [`Workload`](crate::workload::Workload).
    pub const WORKLOADS: &str = "WORKLOADS";
    /// Cgroup id to [`Workload`](crate::workload::Workload), for the agent's own network namespace.
    pub const CGROUPS: &str = "CGROUPS";
    /// [`Address`](crate::address::Address) to [`Workload`](crate::workload::Workload).
    pub const IDENTITIES: &str = "IDENTITIES";
    /// [`ServiceKey`](crate::service::ServiceKey) to [`Service`](crate::service::Service).
    pub const SERVICES: &str = "SERVICES";
    /// [`SlotKey`](crate::service::SlotKey) to an endpoint's number.
    pub const SLOTS: &str = "SLOTS";
    /// Number to [`Endpoint`](crate::endpoint::Endpoint).
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Number of an endpoint to its open connections.
    pub const OPEN: &str = "OPEN";
    /// Number of a service's port to its round-robin cursor.
    pub const CURSORS: &str = "CURSORS";
    /// [`PolicyKey`](crate::policy::PolicyKey) to [`Policy`](crate::policy::Policy).
    pub const POLICY: &str = "POLICY";
    /// Socket to [`Conn`](crate::conn::Conn).
    pub const CONN: &str = "CONN";
    /// [`Tuple`](crate::conn::Tuple) to [`Conn`](crate::conn::Conn), from SYN to accept.
    pub const PENDING: &str = "PENDING";
    /// [`FlowKey`](crate::flow::FlowKey) to [`Flow`](crate::flow::Flow).
    pub const REPLIES: &str = "REPLIES";
    /// [`QueryKey`](crate::flow::QueryKey) to [`Query`](crate::flow::Query).
    pub const QUERIES: &str = "QUERIES";
    /// [`EgressKey`](crate::egress::EgressKey) to nothing in particular.
    pub const EGRESS: &str = "EGRESS";
    /// [`ListenerKey`](crate::service::ListenerKey) to a listener of the agent.
    pub const LISTENERS: &str = "LISTENERS";
    /// [`Tuple`](crate::conn::Tuple) to a paired socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// [`Tuple`](crate::conn::Tuple) to [`Peer`](crate::redirect::Peer).
    pub const PEERS: &str = "PEERS";
    /// Socket to [`Redirect`](crate::redirect::Redirect).
    pub const REDIRECTS: &str = "REDIRECTS";
    /// One count of directions that have gone back from redirection to TCP.
    pub const FALLBACKS: &str = "FALLBACKS";
    /// Ring buffer of [`Event`](crate::event::Event)s.
    pub const EVENTS: &str = "EVENTS";
    /// [`StatKey`](crate::stats::StatKey) to a count per CPU.
    pub const STATS: &str = "STATS";

    /// All of them.
    pub const ALL: [&str; 22] = [
        SETTINGS, WORKLOADS, CGROUPS, IDENTITIES, SERVICES, SLOTS, ENDPOINTS, OPEN, CURSORS,
        POLICY, CONN, PENDING, REPLIES, QUERIES, EGRESS, LISTENERS, SOCKETS, PEERS, REDIRECTS,
        FALLBACKS, EVENTS, STATS,
    ];
}

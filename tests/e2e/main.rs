//! Tests of whole nodes: one binary, one module per subject.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that finds something else than it wants fails loudly"
)]
#![expect(
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters are whole numbers, written as floating point"
)]

mod acceleration;
mod api;
mod balancing;
mod cgroup;
mod cleanup;
mod command;
mod connect;
mod consul;
mod dns;
mod etcd;
mod exec;
mod explain;
mod graph;
mod handover;
mod harness;
mod http;
mod hygiene;
mod life;
mod lifecycle;
mod limits;
mod load;
mod metrics;
mod namespaces;
mod objects;
mod outside;
mod policy;
mod registry;
mod resilience;
mod routing;
mod shaping;
mod shop;
mod stale;
mod tcp;
mod three;
mod udp;

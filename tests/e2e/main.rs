//! Tests of whole nodes: one binary, one module per subject.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that finds something else than it wants fails loudly"
)]

mod acceleration;
mod api;
mod balancing;
mod cleanup;
mod command;
mod connect;
mod etcd;
mod exec;
mod explain;
mod graph;
mod handover;
mod harness;
mod http;
mod hygiene;
mod lifecycle;
mod load;
mod metrics;
mod objects;
mod policy;
mod registry;
mod resilience;
mod routing;
mod shaping;
mod shop;
mod stale;
mod tcp;

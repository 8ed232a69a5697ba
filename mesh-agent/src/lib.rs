//! The agent of a node, as a library: tests, benchmarks and the thin binary use it.
#![doc = ""]
#![doc = include_str!("../ARCHITECTURE.md")]

pub mod app;

pub mod command;

pub mod config;

pub mod api;
pub mod dns;
pub mod ebpf;
pub mod proxy;
pub mod registry;

pub mod probe;

pub mod traffic;

pub mod state;

pub mod drain;
pub mod metrics;
pub mod net;
pub mod telemetry;

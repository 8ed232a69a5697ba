//! The agent of a node.

pub mod api;
pub mod app;
pub mod command;
pub mod config;
pub mod ebpf;
pub mod proxy;

pub mod traffic;

pub mod state;

pub mod drain;
pub mod metrics;
pub mod net;
pub mod telemetry;

//! Throw-away: module declarations until the kernel side is merged.

pub mod connections;
pub mod coverage;
pub mod events;
pub mod explain;
pub mod inet_diag;
pub mod metrics;
pub mod mirror;
pub mod numbers;
pub mod tables;

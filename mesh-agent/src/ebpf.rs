//! Throw-away: module declarations until the kernel side is merged.

pub mod inet_diag;
pub mod metrics;
pub mod mirror;
pub mod tables;

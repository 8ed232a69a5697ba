//! Throw-away: module declarations until the kernel side is merged.

pub mod metrics;
pub mod mirror;
pub mod tables;

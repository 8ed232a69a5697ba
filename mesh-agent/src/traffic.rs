//! Decisions about traffic: pure functions of a snapshot and the facts of a connection. They never block, fail or log.

pub mod authz;
pub mod balance;
pub mod breaker;
pub mod deadline;
pub mod ejection;
pub mod health;
pub mod hedge;
pub mod outlier;
pub mod path;
pub mod retry;

#[cfg(test)]
pub(crate) mod fixture;

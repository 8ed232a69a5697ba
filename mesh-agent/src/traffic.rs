//! Decisions about traffic: pure functions of a snapshot and the facts of a connection. They never block, fail or log.

pub mod admission;
pub mod authz;
pub mod balance;
pub mod breaker;
pub mod concurrency;
pub mod deadline;
pub mod ejection;
pub mod fault;
pub mod fields;
pub mod health;
pub mod hedge;
pub mod limit;
pub mod outlier;
pub mod path;
pub mod retry;
pub mod route;
pub mod session;

#[cfg(test)]
pub(crate) mod fixture;

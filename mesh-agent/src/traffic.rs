//! Decisions about traffic: pure functions of a snapshot and the facts of a connection. They never block, fail or log.

pub mod admission;
pub mod authz;
pub mod balance;
pub mod concurrency;
pub mod ejection;
pub mod fault;
pub mod limit;
pub mod path;
pub mod session;

#[cfg(test)]
pub(crate) mod fixture;

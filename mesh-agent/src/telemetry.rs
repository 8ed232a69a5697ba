//! Stub.

pub mod access_log;

pub use access_log::AccessLog;

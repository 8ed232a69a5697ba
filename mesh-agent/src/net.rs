//! Sockets, addresses and network namespaces.

pub mod conn;
pub mod netns;

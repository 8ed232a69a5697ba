//! Sockets, addresses and network namespaces.

pub mod clock;
pub mod conn;
pub mod copy;
pub mod gather;
pub mod netns;
pub mod pace;
pub mod peek;
pub mod seldom;
pub mod slice;
pub mod socket;
pub mod stream;
pub mod timers;
pub mod tls;

//! The whole proxy on real sockets, without root: the kernel's answers are fixed.

mod balancing;
mod crowded;
mod ends;
mod explain;
mod failover;
mod fixture;
mod health;
mod http1;
mod hosts;
mod http2;
mod hung;
mod hygiene1;
mod hygiene2;
mod interim;
mod limits;
mod links;
mod outliers;
mod patience;
mod replay;
mod resilience;
mod routes;
mod shaping;
mod streams;
mod tcp;
mod told;
mod windows;

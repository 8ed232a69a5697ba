//! What the kernel programs and the agent must agree on.
//!
//! The rules of this binary interface:
//!
//! * Addresses are 16 bytes in network byte order, IPv4 as v4-mapped IPv6 (RFC 4291, 2.5.5.2), so that
//!   IPv4, IPv6 and v4-mapped sockets take the same path. Ports are numbers in host byte order.
//! * No hidden padding: map look-ups compare every byte. The compiler proves the size of each type.
//! * A change to any layout changes [`SCHEMA`], and with it the directory of the pinned maps.
//!
//! Besides the layouts the crate holds the decisions that both sides must take alike: the
//! [verdict at connect](verdict::decide) and the [policy algebra](policy::Policy::authorize). They see the maps
//! through a trait, so the hook, `explain` and the tests run the same code.
#![cfg_attr(not(feature = "user"), no_std)]
#![expect(
    clippy::inline_always,
    reason = "the kernel programs are one function each: what the compiler leaves out of line costs stack and proof"
)]

pub mod address;
pub mod balance;
pub mod conn;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod names;
pub mod policy;
pub mod redirect;
pub mod service;
pub mod settings;
pub mod stats;
pub mod verdict;
pub mod workload;

/// Version of every layout in this crate; part of the name of the directory of pinned maps.
pub const SCHEMA: u32 = 2;

/// Implements aya's `Pod` for types that live in maps.
#[cfg(feature = "user")]
macro_rules! pod {
    ($($name:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)`, integers only, no padding (asserted beside the type): every byte
            // pattern is a value, and every byte is initialised.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

#[cfg(feature = "user")]
mod user {
    use crate::{
        address, conn, endpoint, event, flow, policy, redirect, service, settings, stats, workload,
    };

    pod!(
        address::Address,
        address::SocketAddress,
        conn::Conn,
        conn::Tuple,
        endpoint::Endpoint,
        event::Event,
        flow::Flow,
        flow::FlowKey,
        flow::Query,
        flow::QueryKey,
        policy::Policy,
        policy::PolicyKey,
        redirect::Peer,
        redirect::Redirect,
        service::ListenerKey,
        service::Service,
        service::ServiceKey,
        service::SlotKey,
        settings::Settings,
        stats::StatKey,
        workload::Workload,
    );
}

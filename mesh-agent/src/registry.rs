//! Where the objects of the registry come from, beside the API: sources, and the way of a change to the one that keeps it.
//!
//! Every source ends in [`Store::apply`](crate::state::Store::apply), so that an object is judged the same wherever it
//! comes from.

pub mod etcd;
mod metrics;

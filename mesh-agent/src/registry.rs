//! Where objects come from beside the API: each source ends in [`Store::apply_all`](crate::state::Store::apply_all), and
//! says how it is on the [`Board`].

mod board;
pub mod edges;
pub mod etcd;
pub mod export;
pub mod folder;
pub mod metrics;

pub use board::Board;

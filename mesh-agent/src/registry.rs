//! What brings objects into the registry beside the API, keeps endpoints true, and takes them out again: each source ends in
//! [`Store::apply_all`](crate::state::Store::apply_all), and says how it is on the [`Board`].

mod board;
pub mod checks;
pub mod edges;
pub mod export;
pub mod folder;
pub mod metrics;

pub use board::Board;

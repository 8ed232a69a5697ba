//! What brings endpoints into the registry, keeps them true, and takes them out again.

pub mod checks;

//! Which build this is.

use prometheus_client::metrics::info::Info;

use super::Registry;

/// Version of the agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The compiler, as the toolchain file pins it.
pub const RUSTC: &str = env!("CARGO_PKG_RUST_VERSION");

/// Adds `mesh_build_info`.
pub fn register(registry: &mut Registry) {
    let labels = vec![("version", VERSION), ("rustc", RUSTC)];
    registry.register("mesh_build", "Build of the agent", Info::new(labels));
}

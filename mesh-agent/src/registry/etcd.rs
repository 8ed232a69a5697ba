//! etcd as the registry that many nodes share.

mod address;
mod base64;
mod client;
mod error;
mod lines;
mod tls;
mod transport;
mod watch;
mod wire;

pub use address::{Address, ParseAddressError, User};
pub use error::Error;
pub use tls::{TlsError, TlsFiles};

//! HTTP/2 as the proxy speaks it, with h2 itself. hyper's layer above has a task and a queue for each request to an endpoint,
//! and does not let the windows of a client's connection follow what may be held for it.

mod body;
mod link;
mod sending;
mod serving;
mod tunnel;

pub(crate) use body::Body;
pub(crate) use link::{Link, Stream, open};
pub(crate) use serving::Serving;
pub(crate) use tunnel::Tunnel;

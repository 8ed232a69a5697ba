//! Whole agents on a real kernel: nodes made of network namespaces and cgroups, with pods, fake servers and clients.
//!
//! ```no_run
//! use mesh_tests::node::Node;
//! use mesh_tests::registry::{endpoint, service};
//!
//! // None, after saying why, where nodes cannot be made (not root, for example).
//! let Some(node) = Node::start() else { return };
//! let client = node.pod("client");
//! let web = node.pod("web");
//! web.serve_http("web-1", 8080);
//! node.enrol(&client);
//! node.apply(&[
//!     service("web", &["240.240.0.10"], "http", 80, "http"),
//!     endpoint("web-1", "web", web.v4(), "http", 8080),
//! ]);
//! let answer = client.get("http://240.240.0.10/");
//! assert_eq!(answer.header("x-server"), "web-1");
//! ```
//!
//! A node has a network namespace of its own, in which the agent runs and which forwards between the pods. A pod has a
//! network namespace, a cgroup below the hooked one, and one helper process (`src/bin/pod.rs`) that was born in both:
//! programs at a cgroup see a socket by the cgroup it was made in, and a thread cannot be in another cgroup than its
//! process. The helper serves and dials on command; see [`protocol`].
//!
//! Every resource carries the process number of the tests; guards remove them when dropped, and what a killed run left
//! behind is removed by the next one.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support: failing loudly is the point"
)]

pub mod agent;
pub mod api;
pub mod cgroup;
mod client;
pub mod clients;
mod datagram;
pub mod eventually;
pub mod helper;
mod hold;
mod http_client;
pub mod interrupt;
mod leftovers;
mod load;
pub mod metrics;
pub mod netns;
pub mod node;
mod pace;
pub mod pod;
pub mod protocol;
pub mod registry;
pub mod requirements;
pub mod resolver;
mod server;
mod stream;
pub mod table;

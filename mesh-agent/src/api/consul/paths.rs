//! Which paths of Consul there are.

use super::blocking::Topic;
use super::catalog;
use super::checks;
use super::views::{self, View};
use super::write::{self, Write};

/// What is read where, and what may change it.
pub(super) const READS: [(&str, View, Topic); 20] = [
    ("/v1/agent/services", views::agent_services, Topic::Nothing),
    (
        "/v1/agent/service/{argument}",
        views::agent_service,
        Topic::Nothing,
    ),
    ("/v1/agent/checks", views::agent_checks, Topic::Nothing),
    ("/v1/agent/self", views::agent_self, Topic::Nothing),
    ("/v1/agent/members", views::agent_members, Topic::Nothing),
    (
        "/v1/agent/health/service/name/{argument}",
        views::agent_health_by_name,
        Topic::Nothing,
    ),
    (
        "/v1/agent/health/service/id/{argument}",
        views::agent_health_by_id,
        Topic::Nothing,
    ),
    ("/v1/status/leader", views::leader, Topic::Nothing),
    ("/v1/status/peers", views::peers, Topic::Nothing),
    (
        "/v1/catalog/datacenters",
        views::datacenters,
        Topic::Nothing,
    ),
    ("/v1/catalog/services", views::services, Topic::All),
    (
        "/v1/catalog/service/{argument}",
        views::service,
        Topic::Service,
    ),
    ("/v1/catalog/nodes", views::nodes, Topic::All),
    ("/v1/catalog/node/{argument}", views::node, Topic::All),
    (
        "/v1/catalog/node-services/{argument}",
        views::node_services,
        Topic::All,
    ),
    (
        "/v1/health/service/{argument}",
        views::health_service,
        Topic::Service,
    ),
    (
        "/v1/health/checks/{argument}",
        views::health_checks,
        Topic::Service,
    ),
    ("/v1/health/node/{argument}", views::health_node, Topic::All),
    (
        "/v1/health/state/{argument}",
        views::health_state,
        Topic::All,
    ),
    (
        "/v1/health/connect/{argument}",
        views::nothing,
        Topic::Nothing,
    ),
];

/// What is written where.
pub(super) const WRITES: [(&str, Write); 9] = [
    ("/v1/agent/service/register", write::register),
    (
        "/v1/agent/service/deregister/{*argument}",
        write::deregister,
    ),
    ("/v1/agent/service/maintenance/{*argument}", write::maintain),
    ("/v1/agent/maintenance", write::maintain_node),
    ("/v1/agent/check/register", checks::register_check),
    (
        "/v1/agent/check/deregister/{*argument}",
        checks::deregister_check,
    ),
    ("/v1/catalog/register", catalog::register),
    ("/v1/catalog/deregister", catalog::deregister),
    // What is registered is kept at once.
    ("/v1/agent/reload", catalog::nothing),
];

/// Signs of life. They wait for no other write: one that waits for the shared registry would make them late.
pub(super) const BEATS: [(&str, Write); 4] = [
    ("/v1/agent/check/pass/{*argument}", checks::pass),
    ("/v1/agent/check/warn/{*argument}", checks::warn),
    ("/v1/agent/check/fail/{*argument}", checks::fail),
    ("/v1/agent/check/update/{*argument}", checks::update),
];

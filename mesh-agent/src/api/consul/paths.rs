//! Which paths of Consul there are.

use super::blocking::Topic;
use super::catalog;
use super::checks;
use super::filter::Filtered;
use super::views::{self, View};
use super::write::{self, Write};

/// What is read where, what a filter chooses from, and what may change it.
pub(super) const READS: [(&str, View, Filtered, Topic); 20] = [
    (
        "/v1/agent/services",
        views::agent_services,
        Filtered::Items,
        Topic::Nothing,
    ),
    (
        "/v1/agent/service/{argument}",
        views::agent_service,
        Filtered::Nothing,
        Topic::Nothing,
    ),
    (
        "/v1/agent/checks",
        views::agent_checks,
        Filtered::Items,
        Topic::Nothing,
    ),
    (
        "/v1/agent/self",
        views::agent_self,
        Filtered::Nothing,
        Topic::Nothing,
    ),
    (
        "/v1/agent/members",
        views::agent_members,
        Filtered::Items,
        Topic::Nothing,
    ),
    (
        "/v1/agent/health/service/name/{argument}",
        views::agent_health_by_name,
        Filtered::Nothing,
        Topic::Nothing,
    ),
    (
        "/v1/agent/health/service/id/{argument}",
        views::agent_health_by_id,
        Filtered::Nothing,
        Topic::Nothing,
    ),
    (
        "/v1/status/leader",
        views::leader,
        Filtered::Nothing,
        Topic::Nothing,
    ),
    (
        "/v1/status/peers",
        views::peers,
        Filtered::Nothing,
        Topic::Nothing,
    ),
    (
        "/v1/catalog/datacenters",
        views::datacenters,
        Filtered::Nothing,
        Topic::Nothing,
    ),
    (
        "/v1/catalog/services",
        views::services,
        Filtered::Inside,
        Topic::All,
    ),
    (
        "/v1/catalog/service/{argument}",
        views::service,
        Filtered::Items,
        Topic::Service,
    ),
    (
        "/v1/catalog/nodes",
        views::nodes,
        Filtered::Items,
        Topic::All,
    ),
    (
        "/v1/catalog/node/{argument}",
        views::node,
        Filtered::Services,
        Topic::All,
    ),
    (
        "/v1/catalog/node-services/{argument}",
        views::node_services,
        Filtered::Services,
        Topic::All,
    ),
    (
        "/v1/health/service/{argument}",
        views::health_service,
        Filtered::Items,
        Topic::Service,
    ),
    (
        "/v1/health/checks/{argument}",
        views::health_checks,
        Filtered::Items,
        Topic::Service,
    ),
    (
        "/v1/health/node/{argument}",
        views::health_node,
        Filtered::Items,
        Topic::All,
    ),
    (
        "/v1/health/state/{argument}",
        views::health_state,
        Filtered::Items,
        Topic::All,
    ),
    (
        "/v1/health/connect/{argument}",
        views::nothing,
        Filtered::Items,
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

//! Check: how it is found out whether an endpoint is well, as its registration says. Data only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::Uri;
use http::uri::Authority;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::duration::Duration;
use super::endpoint::HealthStatus;

/// The id of what the agent finds by the health check of a policy and by answers. No registration may use it.
pub const OBSERVED: &str = "mesh:observed";

/// One check of an endpoint. Exactly one of `ttl`, `http`, `tcp`, `grpc` and `alias`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// Names it among the checks of its endpoint; 1 to 253 bytes.
    pub id: String,
    /// For people; absent: the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For people, at most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// The endpoint says itself how it is, at least so often; else it is critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// By a request: 200 to 299 is passing, 429 a warning, anything else critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTarget>,
    /// By a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpTarget>,
    /// By `grpc.health.v1.Health/Check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcTarget>,
    /// As another endpoint or service is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<AliasTarget>,
    /// How `https://`, or `tcp` and `grpc` where this is given, are asked over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsTarget>,
    /// Time between two requests or connections, 100ms to 24h.
    #[serde(default = "ten_seconds")]
    pub interval: Duration,
    /// How long one may take, 1ms to 10m.
    #[serde(default = "ten_seconds")]
    pub timeout: Duration,
    /// After so long in a critical state the endpoint is deleted, 1s to 30 days; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregister_critical_after: Option<Duration>,
    /// Good ones in a row that make it passing, 0 to 1000; 0 and 1 mean the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub success_before_passing: u32,
    /// Bad ones in a row that make it a warning, at most as many as make it critical; absent: none do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_before_warning: Option<u32>,
    /// Bad ones in a row that make it critical, 0 to 1000; 0 and 1 mean the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures_before_critical: u32,
    /// What it is before anything is known.
    #[serde(default = "critical", skip_serializing_if = "is_critical")]
    pub initial_status: HealthStatus,
}

/// What is requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpTarget {
    /// `http://HOST[:PORT]/PATH[?QUERY]` or the same with `https`, seen from the network namespace of the endpoint where that is on this node.
    pub url: String,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// Fields of the head; at most 32, each value of at most 4 KiB.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl HttpTarget {
    /// Whether it is requested over TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        let scheme = self.url.split(':').next();
        scheme.is_some_and(|it| it.eq_ignore_ascii_case("https"))
    }
}

/// What is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpTarget {
    /// `HOST:PORT`.
    pub address: String,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcTarget {
    /// `HOST:PORT`.
    pub address: String,
    /// Service that is asked after; absent: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Whose certificate is good. The authorities are those of the agent's setting `checkCa`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsTarget {
    /// The name or address that it has to be for; absent: the host of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Takes any certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
}

/// Whose health is taken over. Exactly one of `endpoint` and `service`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AliasTarget {
    /// Its namespace; absent: that of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of an endpoint: the worst of its checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Name of a service: passing while it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// What a check has shown. Written by the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckStatus {
    /// The id of the check; `mesh:observed` for what the agent has seen by itself.
    pub id: String,
    /// In one word.
    pub status: HealthStatus,
    /// What was seen or said last, at most 4 KiB. Of what is seen again and again with the same status, at most once a
    /// minute.
    pub output: String,
    /// Since when it is so, RFC 3339.
    pub since: String,
}

impl Check {
    /// What to call it.
    #[must_use]
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    /// Its kind, in one word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self { ttl: Some(_), .. } => "ttl",
            Self { http: Some(_), .. } => "http",
            Self { tcp: Some(_), .. } => "tcp",
            Self { grpc: Some(_), .. } => "grpc",
            _ => "alias",
        }
    }

    /// Where it connects to; `None` for one that connects to nobody.
    #[must_use]
    pub fn authority(&self) -> Option<Authority> {
        if let Some(target) = &self.http {
            return target.url.parse::<Uri>().ok()?.authority().cloned();
        }
        let tcp = self.tcp.as_ref().map(|it| &it.address);
        let grpc = self.grpc.as_ref().map(|it| &it.address);
        tcp.or(grpc)?.parse().ok()
    }

    /// Whether it connects at most to loopback and to one of these addresses. A name other than `localhost` may mean
    /// anybody.
    #[must_use]
    pub fn stays_at(&self, own: &[IpAddr]) -> bool {
        let Some(authority) = self.authority() else {
            return true;
        };
        let host = bare_host(&authority);
        match host.parse::<IpAddr>().map(|it| it.to_canonical()) {
            Ok(ip) => ip.is_loopback() || own.iter().any(|it| it.to_canonical() == ip),
            Err(_) => host.eq_ignore_ascii_case(LOCALHOST),
        }
    }

    /// What is said of it before anything is known.
    #[must_use]
    pub fn beginning(&self, now: &str) -> CheckStatus {
        CheckStatus {
            id: self.id.clone(),
            status: self.initial_status,
            output: String::new(),
            since: now.to_owned(),
        }
    }
}

/// The name of loopback that nobody is asked for.
pub const LOCALHOST: &str = "localhost";

/// The host of an authority; an address without brackets.
#[must_use]
pub fn bare_host(authority: &Authority) -> &str {
    authority.host().trim_matches(['[', ']'])
}

/// Longest output that is kept, as in Consul.
pub const MAX_OUTPUT: usize = 4096;

/// The beginning of an output, as far as it is kept.
#[must_use]
pub fn shortened(mut output: String) -> String {
    let mut end = output.len().min(MAX_OUTPUT);
    while !output.is_char_boundary(end) {
        end -= 1;
    }
    output.truncate(end);
    output
}

fn get() -> String {
    "GET".to_owned()
}

const fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

const fn critical() -> HealthStatus {
    HealthStatus::Critical
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_critical(status: &HealthStatus) -> bool {
    *status == HealthStatus::Critical
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_loopback_and_own_addresses_are_at_home() {
        let own = ["10.0.0.3".parse().unwrap(), "fd00::3".parse().unwrap()];
        let stays = |mut check: Value| {
            check["id"] = json!("a");
            serde_json::from_value::<Check>(check)
                .unwrap()
                .stays_at(&own)
        };
        let tcp = |address: &str| stays(json!({"tcp": {"address": address}}));
        for address in [
            "10.0.0.3:1",
            "127.0.0.53:1",
            "LocalHost:1",
            "[::1]:1",
            "[fd00::3]:1",
            "[::ffff:10.0.0.3]:1",
        ] {
            assert!(tcp(address), "{address}");
        }
        for address in [
            "10.0.0.4:1",
            "[fd00::4]:1",
            "[::ffff:10.0.0.4]:1",
            "web.example:1",
            "127.1:1",
            "localhost.example:1",
        ] {
            assert!(!tcp(address), "{address}");
            assert!(!stays(json!({"grpc": {"address": address}})), "{address}");
            let url = format!("https://10.0.0.3@{address}/10.0.0.3");
            assert!(!stays(json!({"http": {"url": url}})), "{url}");
        }
        assert!(stays(json!({"http": {"url": "http://10.0.0.3/health"}})));
        assert!(stays(json!({"ttl": "1s"})) && stays(json!({"alias": {"service": "db"}})));
    }
}

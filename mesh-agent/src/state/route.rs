//! What the routes of the Gateway API have in common. Data only; `traffic::route` compiles it.
//!
//! Names, defaults and meaning are those of the Gateway API, version 1.5 (gateway-api.sigs.k8s.io/reference/spec);
//! the experimental fields `retry`, `sessionPersistence` and the filter `CORS` are part of it.

mod status;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use status::{CONTROLLER, RouteParentStatus, RouteStatus};

use super::duration::Duration;

/// What a route is attached to: a Service, as GAMMA has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentReference {
    /// API group; empty or `core` for a Service.
    #[serde(default = "gateway_group")]
    pub group: String,
    /// Kind of the parent.
    #[serde(default = "gateway_kind")]
    pub kind: String,
    /// Its namespace; absent: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Name of a port of the service; absent: all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Number of a port of the service; absent: all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

fn gateway_group() -> String {
    "gateway.networking.k8s.io".to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}

impl ParentReference {
    /// Whether it names a Service.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.kind == "Service" && matches!(self.group.as_str(), "" | "core")
    }
}

/// A service that takes requests or connections, without a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendObjectReference {
    /// API group; empty for a Service.
    #[serde(default)]
    pub group: String,
    /// Kind: `Service`; to any other nothing is sent.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; absent: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its port; needed for a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

fn service_kind() -> String {
    "Service".to_owned()
}

/// A service that takes a share of the requests of an HTTP rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpBackendRef {
    /// API group; empty for a Service.
    #[serde(default)]
    pub group: String,
    /// Kind: `Service`; to any other nothing is sent.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; absent: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its port; needed for a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Share of the requests, 0 to 1,000,000.
    #[serde(default = "one")]
    pub weight: u32,
    /// Filters for this share only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
}

/// A service that takes a share of the connections of a TCP or TLS rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// API group; empty for a Service.
    #[serde(default)]
    pub group: String,
    /// Kind: `Service`; to any other nothing is sent.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; absent: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its port; needed for a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Share of the connections, 0 to 1,000,000.
    #[serde(default = "one")]
    pub weight: u32,
}

const fn one() -> u32 {
    1
}

/// How a text is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum StringMatchType {
    /// Equal, byte for byte.
    #[default]
    Exact,
    /// The whole text matches the expression (syntax of the crate `regex`, close to RE2).
    RegularExpression,
}

/// A header or query parameter that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NameMatch {
    /// How the value is compared.
    #[serde(default, rename = "type")]
    pub kind: StringMatchType,
    /// Name; of a header in any case. That of `host` is compared with the host and port that a request names, in small
    /// letters, by whatever version of HTTP it comes.
    pub name: String,
    /// Value, or expression.
    pub value: String,
}

/// One thing that is done to a request or its response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpFilter {
    /// Which of the fields below is meant; that one must be there, and no other.
    #[serde(rename = "type")]
    pub kind: FilterType,
    /// `RequestHeaderModifier`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// `ResponseHeaderModifier`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// `RequestMirror`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<RequestMirror>,
    /// `RequestRedirect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
    /// `URLRewrite`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "urlRewrite"
    )]
    pub url_rewrite: Option<UrlRewrite>,
    /// `CORS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
}

/// What a filter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum FilterType {
    /// Changes headers of the request.
    RequestHeaderModifier,
    /// Changes headers of the response.
    ResponseHeaderModifier,
    /// Sends a copy elsewhere, and ignores its answer. What a redirect answers is not copied.
    RequestMirror,
    /// Answers with a redirect.
    RequestRedirect,
    /// Changes host or path before the request is sent.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Answers preflights and marks responses, as the Fetch standard has it.
    #[serde(rename = "CORS")]
    Cors,
}

/// Changes to headers: `set` replaces, `add` appends, `remove` takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderModifier {
    /// Replaced or made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Header>,
    /// Appended to what is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Header>,
    /// Taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Where copies go, and how many. `percent` and `fraction` exclude each other; neither: all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// Who gets the copies.
    pub backend_ref: BackendObjectReference,
    /// Percent of the requests, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Share of the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

/// `numerator / denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    /// At most the denominator.
    pub numerator: u32,
    /// At least 1.
    #[serde(default = "hundred")]
    pub denominator: u32,
}

const fn hundred() -> u32 {
    100
}

/// An answer that sends the client elsewhere. What is absent stays as it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRedirect {
    /// `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// Port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308; absent: 302.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
}

/// What the endpoint is asked for instead. The query stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// Host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// Which of the fields below is meant.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// The whole new path; empty: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<String>,
    /// What takes the place of the prefix that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<String>,
}

/// How a path is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum PathModifierType {
    /// As a whole.
    ReplaceFullPath,
    /// The matched prefix only.
    ReplacePrefixMatch,
}

/// Cross-origin requests (Fetch standard, 3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// `SCHEME://HOST[:PORT]`, with `*` as the first label of the host, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    /// Whether credentials may be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// Methods, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Request headers, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// Seconds for which a preflight may be remembered.
    #[serde(default = "five")]
    pub max_age: u32,
}

const fn five() -> u32 {
    5
}

/// GEP-1619: requests of one client go to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// Name of the cookie or header; absent: one that no other rule has, made of the kind, the namespace and the name of
    /// the route and of the rule's name or number; of a service's policy one made of the service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
    /// The session ends so long after its begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<Duration>,
    /// The session ends when it was unused for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// By what the session is carried.
    #[serde(default, rename = "type")]
    pub kind: SessionType,
    /// Only for cookies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
}

/// By what a session is carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum SessionType {
    /// A cookie.
    #[default]
    Cookie,
    /// A header, which the client sends back.
    Header,
}

/// How long a cookie is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    /// Its life.
    #[serde(default)]
    pub lifetime_type: CookieLifetime,
}

/// How long a cookie is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum CookieLifetime {
    /// Until the client is closed.
    #[default]
    Session,
    /// For the absolute timeout.
    Permanent,
}

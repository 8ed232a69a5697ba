//! A requested difference, what came of it, and why it was refused.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::endpoint::{Endpoint, Health, HealthStatus};
use super::grpc_route::GrpcRoute;
use super::http_route::HttpRoute;
use super::object::{Condition, Kind, Metadata, ObjectKey};
use super::policy::AuthorizationPolicy;
use super::reference_grant::ReferenceGrant;
use super::service::Service;
use super::source::Source;
use super::stream_route::{TcpRoute, TlsRoute};
use super::traffic_policy::TrafficPolicy;
use super::workload::Workload;

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Manifest {
    /// A service.
    Service(Arc<Service>),
    /// An endpoint.
    Endpoint(Arc<Endpoint>),
    /// A workload.
    Workload(Arc<Workload>),
    /// A policy.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// An HTTP route.
    HttpRoute(Arc<HttpRoute>),
    /// A gRPC route.
    GrpcRoute(Arc<GrpcRoute>),
    /// A TCP route.
    TcpRoute(Arc<TcpRoute>),
    /// A TLS route.
    TlsRoute(Arc<TlsRoute>),
    /// A grant.
    ReferenceGrant(Arc<ReferenceGrant>),
    /// A traffic policy.
    TrafficPolicy(Arc<TrafficPolicy>),
}

impl Manifest {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Endpoint(_) => Kind::Endpoint,
            Self::Workload(_) => Kind::Workload,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::GrpcRoute(_) => Kind::GrpcRoute,
            Self::TcpRoute(_) => Kind::TcpRoute,
            Self::TlsRoute(_) => Kind::TlsRoute,
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
        }
    }

    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Service(object) => &object.metadata,
            Self::Endpoint(object) => &object.metadata,
            Self::Workload(object) => &object.metadata,
            Self::AuthorizationPolicy(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::GrpcRoute(object) => &object.metadata,
            Self::TcpRoute(object) => &object.metadata,
            Self::TlsRoute(object) => &object.metadata,
            Self::ReferenceGrant(object) => &object.metadata,
            Self::TrafficPolicy(object) => &object.metadata,
        }
    }

    /// What is so with it.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        match self {
            Self::Service(object) => &object.status.conditions,
            Self::Endpoint(object) => &object.status.conditions,
            Self::Workload(object) => &object.status.conditions,
            Self::AuthorizationPolicy(object) => &object.status.conditions,
            Self::HttpRoute(object) => &object.status.conditions,
            Self::GrpcRoute(object) => &object.status.conditions,
            Self::TcpRoute(object) => &object.status.conditions,
            Self::TlsRoute(object) => &object.status.conditions,
            Self::ReferenceGrant(object) => &object.status.conditions,
            Self::TrafficPolicy(object) => &object.status.conditions,
        }
    }

    /// What names it among those of its kind.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.metadata().namespace, &self.metadata().name)
    }
}

/// What somebody wants changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// Create or replace. `metadata.resourceVersion`, where it is not empty, must be the version that is replaced.
    Put(Manifest),
    /// Delete; with `resource_version`, only that version.
    Delete {
        /// Kind of the object.
        kind: Kind,
        /// Its key.
        key: ObjectKey,
        /// The version that is to be deleted, if it matters.
        resource_version: Option<String>,
    },
    /// Set one condition of an object's status. Ignored when the object is gone; no new version when nothing changes.
    Condition {
        /// Kind of the object.
        kind: Kind,
        /// Its key.
        key: ObjectKey,
        /// Replaces the condition of the same type.
        condition: Condition,
    },
    /// Set what a check of an endpoint's registration has shown. Ignored when the endpoint is gone or has no such check;
    /// no new version when word and output are the same.
    Check {
        /// The endpoint.
        endpoint: ObjectKey,
        /// The id of the check.
        id: String,
        /// What it has shown, in one word.
        status: HealthStatus,
        /// What was seen or said; cut after 4 KiB.
        output: String,
    },
    /// Set what the agent has seen of an endpoint by itself. Ignored when the endpoint is gone; no new version when word and output are the same.
    Health {
        /// The endpoint.
        key: ObjectKey,
        /// What was found; `None` where nobody looks any more. The store fills in `since`: the time at which the word
        /// changed.
        health: Option<Health>,
    },
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The object is new.
    Created(Manifest),
    /// The object replaced an older version (or is equal to it, and nothing was written).
    Changed(Manifest),
    /// The object is gone; this was its last version.
    Deleted(Manifest),
    /// Nothing to do.
    Unchanged,
}

/// Why a change was refused. Nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// A field is wrong.
    #[error("{field}: {message}")]
    Invalid {
        /// Path of the field, for example `spec.ports[0].port`.
        field: String,
        /// What is wrong with it, and what would be right.
        message: String,
        /// `Invalid`, or `NotSupported` for what this version does not do yet.
        reason: String,
    },
    /// Somebody else has written the object since.
    #[error("the object is at resourceVersion {current}, not {wanted}")]
    Conflict {
        /// The version in the store.
        current: String,
        /// The version in the request.
        wanted: String,
    },
    /// There is no such object.
    #[error("no {kind} {key}")]
    NotFound {
        /// Kind that was asked for.
        kind: Kind,
        /// Key that was asked for.
        key: ObjectKey,
    },
    /// The object belongs to a source that comes before the one that wants it changed.
    #[error("{kind} {key} belongs to the source {owner}: change it there")]
    Owned {
        /// Kind of the object.
        kind: Kind,
        /// Its key.
        key: ObjectKey,
        /// Whose it is.
        owner: Source,
    },
    /// The disk refuses; the view in memory is unchanged too.
    #[error("cannot store the change: {0}")]
    Storage(String),
    /// The disk has no room; the view in memory is unchanged too, and the next change tries again.
    #[error("cannot store the change: the disk of the registry is full")]
    DiskFull,
}

impl Refusal {
    /// A field is wrong.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            message: message.into(),
            reason: "Invalid".to_owned(),
        }
    }

    /// A field asks for what this version does not do yet.
    pub fn not_supported(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            message: message.into(),
            reason: "NotSupported".to_owned(),
        }
    }
}

/// What watchers are told, in the order of the writes.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The write.
    pub revision: u64,
    /// What happened to the object.
    pub event: NoticeKind,
    /// Its new version; of a deleted one the last.
    pub object: Manifest,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NoticeKind {
    /// It is new.
    Added,
    /// It has a new version.
    Modified,
    /// It is gone.
    Deleted,
}

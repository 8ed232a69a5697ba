//! Labels of the Istio series: every one that Kiali asks for.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

use http::StatusCode;

/// Who is at the two ends: the labels that all series of a caller and endpoint share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub(crate) source: End,
    pub(crate) destination: End,
    /// `NAME.NAMESPACE.mesh`.
    pub(crate) service: String,
    pub(crate) service_name: String,
    pub(crate) service_namespace: String,
}

impl Ends {
    /// Nothing is known of either end.
    pub(crate) fn unknown() -> Self {
        let unknown = || UNKNOWN.to_owned();
        Self {
            source: End::default(),
            destination: End::default(),
            service: unknown(),
            service_name: unknown(),
            service_namespace: unknown(),
        }
    }
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct End {
    pub(crate) workload: String,
    pub(crate) namespace: String,
    pub(crate) canonical_service: String,
    pub(crate) revision: String,
    pub(crate) principal: String,
    pub(crate) app: String,
    pub(crate) version: String,
}

/// What stands where nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

impl Default for End {
    fn default() -> Self {
        let unknown = || UNKNOWN.to_owned();
        Self {
            workload: unknown(),
            namespace: unknown(),
            canonical_service: unknown(),
            revision: "latest".to_owned(),
            principal: unknown(),
            app: unknown(),
            version: unknown(),
        }
    }
}

/// Labels of one series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Outcome {
    pub(crate) ends: Arc<Ends>,
    pub(crate) key: OutcomeKey,
}

impl Outcome {
    /// Stands for the caller.
    pub(super) fn caller(&self) -> u64 {
        let source = &self.ends.source;
        let mut hasher = DefaultHasher::new();
        (&source.namespace, &source.workload).hash(&mut hasher);
        hasher.finish()
    }

    /// What those share who are too many.
    pub(crate) fn overflow() -> Self {
        let overflow = || "overflow".to_owned();
        Self {
            ends: Arc::new(Ends {
                service: overflow(),
                service_name: overflow(),
                service_namespace: overflow(),
                ..Ends::unknown()
            }),
            key: OutcomeKey {
                protocol: "unknown",
                code: 0,
                grpc: None,
                flags: "-",
            },
        }
    }
}

/// How a request or connection went, for its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OutcomeKey {
    /// `http`, `grpc` or `tcp`.
    pub(crate) protocol: &'static str,
    /// Status as [`code`] has it, zero for a TCP connection.
    pub(crate) code: u16,
    /// gRPC status.
    pub(crate) grpc: Option<u8>,
    /// `-`, or why it failed.
    pub(crate) flags: &'static str,
}

/// The status that a status is counted as: itself if it is registered, else the first of its class, as which it has to be
/// treated (RFC 9110, 15). What is in no class counts as an error of the server. So a server does not make series at will.
pub(crate) fn code(status: u16) -> u16 {
    let known = StatusCode::from_u16(status).ok();
    match known.and_then(|it| it.canonical_reason()) {
        Some(_) => status,
        None if status < 600 => status / 100 * 100,
        None => 500,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::code;

    #[test]
    fn unregistered_statuses_count_as_their_class() {
        let cases = [
            (0, 0),
            (200, 200),
            (299, 200),
            (404, 404),
            (499, 400),
            (520, 500),
            (599, 500),
            (600, 500),
            (999, 500),
        ];
        for (status, counted) in cases {
            assert_eq!(code(status), counted, "{status}");
        }
        let counted: BTreeSet<u16> = (100..=999).map(code).collect();
        assert!(counted.len() <= 70, "{}", counted.len());
    }
}

//! Labels of the Istio series: every one that Kiali asks for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};

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
const UNKNOWN: &str = "unknown";

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

/// How a request or connection went, for its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OutcomeKey {
    /// `http`, `grpc` or `tcp`.
    pub(crate) protocol: &'static str,
    /// Status, zero for a TCP connection.
    pub(crate) code: u16,
    /// gRPC status.
    pub(crate) grpc: Option<u8>,
    /// `-`, or why it failed.
    pub(crate) flags: &'static str,
}

impl EncodeLabelSet for Outcome {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Ends {
            source,
            destination,
            service,
            service_name,
            service_namespace,
        } = &*self.ends;
        let mut label = |name: &str, value: &str| (name, value).encode(encoder.encode_label());
        label("reporter", "source")?;
        label("source_workload", &source.workload)?;
        label("source_workload_namespace", &source.namespace)?;
        label("source_canonical_service", &source.canonical_service)?;
        label("source_canonical_revision", &source.revision)?;
        label("source_principal", &source.principal)?;
        label("source_app", &source.app)?;
        label("source_version", &source.version)?;
        label("source_cluster", UNKNOWN)?;
        label("destination_service", service)?;
        label("destination_service_name", service_name)?;
        label("destination_service_namespace", service_namespace)?;
        label("destination_workload", &destination.workload)?;
        label("destination_workload_namespace", &destination.namespace)?;
        label(
            "destination_canonical_service",
            &destination.canonical_service,
        )?;
        label("destination_canonical_revision", &destination.revision)?;
        label("destination_principal", &destination.principal)?;
        label("destination_app", &destination.app)?;
        label("destination_version", &destination.version)?;
        label("destination_cluster", UNKNOWN)?;
        label("request_protocol", self.key.protocol)?;
        if self.key.code != 0 {
            label("response_code", &self.key.code.to_string())?;
            let grpc = self.key.grpc.map(|status| status.to_string());
            label("grpc_response_status", grpc.as_deref().unwrap_or(""))?;
        }
        label("response_flags", self.key.flags)?;
        label("connection_security_policy", "none")
    }
}

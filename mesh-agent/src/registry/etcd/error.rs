//! What may go wrong between the agent and etcd.

use std::io;

use super::lines::TooLong;

/// Why etcd has not done what was asked, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("cannot connect to {member}")]
    Connect {
        /// The member.
        member: String,
        /// What the system or TLS said.
        #[source]
        source: io::Error,
    },
    /// The connection broke before or in the answer.
    #[error("the exchange with {member} has failed")]
    Exchange {
        /// The member.
        member: String,
        /// What broke.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{member} does not answer")]
    Timeout {
        /// The member.
        member: String,
    },
    /// The answer is not what etcd says.
    #[error("{member} does not answer as etcd does (to {path}, with status {status})")]
    Answer {
        /// The member.
        member: String,
        /// What was asked.
        path: String,
        /// Status of HTTP.
        status: u16,
        /// What is wrong with the body.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is larger than it may be.
    #[error("the answer of {member} is too large")]
    TooLarge {
        /// The member.
        member: String,
    },
    /// etcd refuses.
    #[error("{message}")]
    Refused {
        /// Status of gRPC.
        code: u32,
        /// What it says.
        message: String,
    },
    /// A message of a watch has no end.
    #[error("a watch was given up")]
    Line(#[from] TooLong),
    /// The watch has ended.
    #[error("the watch has ended: {0}")]
    Ended(String),
}

impl Error {
    /// Whether the question surely did not reach etcd.
    pub(super) const fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// Whether another member may know better: this one is out of reach, or cut off from the others.
    pub(super) const fn is_of_member(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Exchange { .. }
            | Self::Timeout { .. }
            | Self::Answer { .. } => true,
            Self::Refused { code, .. } => *code == UNAVAILABLE || *code == DEADLINE_EXCEEDED,
            Self::TooLarge { .. } | Self::Line(_) | Self::Ended(_) => false,
        }
    }

    /// Whether a new token may help. etcd 3.4 has no code of its own for some of these, so that its words count.
    pub(super) fn is_of_token(&self) -> bool {
        let Self::Refused { code, message } = self else {
            return false;
        };
        *code == UNAUTHENTICATED
            || message.contains("user name is empty")
            || message.contains("invalid auth token")
            || message.contains("revision in header is old")
    }

    /// Whether the write that was asked for is not known any more.
    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused { code: OUT_OF_RANGE, message } if message.contains("compacted"))
    }

    /// Whether there is such a lease already.
    pub(super) fn is_lease_taken(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("lease already exists"))
    }

    /// Whether there is no such lease.
    pub(super) fn is_lease_gone(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("lease not found"))
    }

    /// The label in the metric of errors.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Exchange { .. } => "exchange",
            Self::Timeout { .. } => "timeout",
            Self::Answer { .. } => "answer",
            Self::TooLarge { .. } | Self::Line(_) => "too-large",
            Self::Refused { .. } => "refused",
            Self::Ended(_) => "ended",
        }
    }

    /// With what is behind it.
    pub(super) fn whole(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

// Status codes of gRPC (grpc/doc/statuscodes.md).
const DEADLINE_EXCEEDED: u32 = 4;
const OUT_OF_RANGE: u32 = 11;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_etcd_are_understood() {
        let refused = |code, message: &str| Error::Refused {
            code,
            message: message.to_owned(),
        };
        assert!(refused(16, "etcdserver: invalid auth token").is_of_token());
        assert!(refused(3, "etcdserver: user name is empty").is_of_token());
        assert!(!refused(7, "etcdserver: permission denied").is_of_token());
        assert!(
            refused(11, "etcdserver: mvcc: required revision has been compacted").is_compacted()
        );
        assert!(
            !refused(
                11,
                "etcdserver: mvcc: required revision is a future revision"
            )
            .is_compacted()
        );
        assert!(refused(9, "etcdserver: lease already exists").is_lease_taken());
        assert!(refused(5, "etcdserver: requested lease not found").is_lease_gone());
        assert!(refused(14, "etcdserver: no leader").is_of_member());
        assert!(!refused(7, "etcdserver: permission denied").is_of_member());
    }
}

//! What may go wrong between the agent and etcd.

use std::io;

use super::lines::TooLong;
use crate::state::Refusal;

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
    /// Another agent has the name of this node.
    #[error(
        "another agent is node {0} already (or was, within its lease): give each its own --node"
    )]
    NameTaken(String),
    /// It is not the registry that this node has followed.
    #[error(
        "the shared registry was replaced or emptied: {key} is not {name}. What this node knows goes on to hold. Restore the registry, or put {name} at {key} to take it as it is"
    )]
    Replaced {
        /// The key that names it.
        key: String,
        /// What this node has followed.
        name: String,
    },
    /// The store of this node refuses what etcd says.
    #[error("what the shared registry says cannot be kept: {0}")]
    Store(Refusal),
    /// The lease has run out in the middle.
    #[error("the lease of this node has run out")]
    LeaseLost,
    /// Another member answers: the one that is watched may be silent because it hangs.
    #[error("{0} is watched, and another member answers")]
    Moved(String),
    /// The writes from which a watch was to go on are not known any more.
    #[error("the writes since then are not known any more")]
    Compacted,
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
            Self::TooLarge { .. }
            | Self::Line(_)
            | Self::NameTaken(_)
            | Self::Replaced { .. }
            | Self::Store(_)
            | Self::LeaseLost
            | Self::Moved(_)
            | Self::Compacted
            | Self::Ended(_) => false,
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

    /// Whether etcd would refuse the same question again: it is too large, or asks for too much at once.
    pub(super) fn is_of_question(&self) -> bool {
        match self {
            Self::Refused { code, message } => {
                (*code == INVALID_ARGUMENT && !self.is_of_token())
                    || (*code == RESOURCE_EXHAUSTED && message.contains("larger than max"))
            }
            _ => false,
        }
    }

    /// Whether the write that was asked for is not known any more.
    pub(super) fn is_compacted(&self) -> bool {
        match self {
            Self::Compacted => true,
            Self::Refused { code, message } => {
                *code == OUT_OF_RANGE && message.contains("compacted")
            }
            _ => false,
        }
    }

    /// Whether there is such a lease already.
    pub(super) fn is_lease_taken(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("lease already exists"))
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
            Self::NameTaken(_) => "name-taken",
            Self::Replaced { .. } => "replaced",
            Self::Store(_) => "store",
            Self::LeaseLost => "lease",
            Self::Moved(_) => "moved",
            Self::Compacted => "compacted",
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
const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
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
        assert!(refused(3, "etcdserver: request is too large").is_of_question());
        assert!(refused(8, "grpc: received message larger than max").is_of_question());
        assert!(!refused(8, "etcdserver: mvcc: database space exceeded").is_of_question());
        assert!(!refused(3, "etcdserver: user name is empty").is_of_question());
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
        assert!(refused(14, "etcdserver: no leader").is_of_member());
        assert!(!refused(7, "etcdserver: permission denied").is_of_member());
    }
}

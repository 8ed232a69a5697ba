//! Why a command failed: what the user reads, and the exit code.

use std::io;
use std::path::PathBuf;

use http::StatusCode;
use serde::Deserialize;

use super::exit::Exit;
use crate::state::object::ObjectKey;
use crate::telemetry::one_line;

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error(
        "cannot reach the agent at {target}: is `mesh-agent run` running? --api or --unix-socket say where it is"
    )]
    Unreachable {
        /// Where it was tried.
        target: String,
        /// What the socket said.
        #[source]
        source: io::Error,
    },
    /// The agent takes too long.
    #[error("the agent at {target} has not answered in time")]
    Timeout {
        /// Where it was tried.
        target: String,
    },
    /// The connection broke.
    #[error("the exchange with the agent at {target} failed")]
    Exchange {
        /// Where it was tried.
        target: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent refuses.
    #[error("{0}")]
    Refused(Problem),
    /// The answer is not what this version understands.
    #[error("cannot read the agent's answer to {path}; is it another version?")]
    Answer {
        /// What was asked.
        path: String,
        /// What is odd.
        #[source]
        source: serde_json::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An export of no objects would replace one of some.
    #[error("the agent has no objects, and {} may be the last copy of what it had: it is left as it is, remove it first if it is not wanted", path.display())]
    NothingToExport {
        /// The file.
        path: PathBuf,
    },
    /// Some of the objects to be imported are refused.
    #[error("nothing of {} was imported: make what is refused right, or take it out", path.display())]
    NotImported {
        /// The file.
        path: PathBuf,
    },
    /// The token cannot be sent.
    #[error("the token in {} is empty or has characters that cannot be sent", path.display())]
    Token {
        /// Its file.
        path: PathBuf,
    },
    /// The file holds something that is no object.
    #[error("{}: {}", one_line(place), one_line(message))]
    Object {
        /// File, line and object.
        place: String,
        /// What is wrong with it.
        message: String,
    },
    /// The agent refuses an object of a file.
    #[error("{}: {problem}", one_line(place))]
    RefusedObject {
        /// File, line and object.
        place: String,
        /// What the agent says.
        problem: Problem,
    },
    /// A name that no object can have.
    #[error("{0:?} is no name: use lower-case letters, digits, dashes and dots")]
    Name(String),
    /// No object has the name.
    #[error("no {what} {name}")]
    NoObject {
        /// Kind, or what several kinds have in common.
        what: &'static str,
        /// Its name, with the namespace or the place where it was looked for.
        name: String,
    },
    /// Objects of several namespaces have the name.
    #[error("{what} {name} is in several namespaces, {namespaces}: say which with -n")]
    Ambiguous {
        /// Kind, or what several kinds have in common.
        what: &'static str,
        /// Its name.
        name: String,
        /// Where it is.
        namespaces: String,
    },
    /// A service that is not dialled at an address of its own.
    #[error("Service {0} has no virtual address: name the address of one of its endpoints")]
    NoAddress(ObjectKey),
    /// `exec` failed.
    #[error(transparent)]
    Exec(#[from] super::exec::Error),
    /// The answer cannot be written as YAML.
    #[error("cannot write YAML")]
    Yaml(#[from] serde_saphyr::ser::Error),
    /// Stdout is gone.
    #[error("cannot write to stdout")]
    Print(#[source] io::Error),
    /// The system gives no resources.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

impl Error {
    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { source, .. } if is_permission(source) => Exit::PERMISSION,
            Self::Unreachable { .. } | Self::Timeout { .. } => Exit::UNAVAILABLE,
            Self::Exchange { .. } | Self::Answer { .. } | Self::Print(_) => Exit::IO,
            Self::Refused(problem) | Self::RefusedObject { problem, .. } => problem.exit(),
            Self::Read { source, .. } if is_permission(source) => Exit::PERMISSION,
            Self::Read { .. } | Self::NoObject { .. } => Exit::NO_INPUT,
            Self::Write { source, .. } if is_permission(source) => Exit::PERMISSION,
            Self::Write { .. } | Self::NothingToExport { .. } => Exit::CANNOT_CREATE,
            Self::Token { .. } | Self::Object { .. } | Self::NotImported { .. } => Exit::DATA,
            Self::Name(_) | Self::Ambiguous { .. } | Self::NoAddress(_) => Exit::USAGE,
            Self::Exec(error) => error.exit(),
            Self::Yaml(_) => Exit::FAILURE,
            Self::Runtime(_) => Exit::OS,
        }
    }

    /// Whether only one object of a file is wrong, and the others can go on.
    pub(super) const fn is_of_one_object(&self) -> bool {
        matches!(self, Self::Object { .. } | Self::RefusedObject { .. })
    }

    /// Whether an agent that restarts may be the cause: it is not there, or has gone while it was asked.
    pub(super) const fn is_of_absence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Exchange { .. })
    }

    /// Whether the agent has no such object.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.status == StatusCode::NOT_FOUND)
    }
}

pub(super) fn is_permission(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What the agent says when it refuses (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    #[serde(skip)]
    pub status: StatusCode,
    /// What is wrong, and what would be right.
    #[serde(default)]
    pub detail: String,
    /// The field that is wrong.
    #[serde(default)]
    pub field: Option<String>,
}

impl Problem {
    /// Reads the body of a refusal; one that is no problem document is shown as it is.
    pub(super) fn read(status: StatusCode, body: &[u8]) -> Self {
        let mut problem: Self = serde_json::from_slice(body).unwrap_or_default();
        if problem.detail.is_empty() {
            let text = String::from_utf8_lossy(body);
            let text: String = text.trim().chars().take(SHOWN_CHARS).collect();
            problem.detail = text;
        }
        problem.status = status;
        problem
    }

    fn exit(&self) -> Exit {
        match self.status {
            StatusCode::BAD_REQUEST => Exit::USAGE,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::PERMISSION,
            StatusCode::NOT_FOUND => Exit::NO_INPUT,
            StatusCode::CONFLICT => Exit::TRY_AGAIN,
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => Exit::DATA,
            StatusCode::SERVICE_UNAVAILABLE => Exit::UNAVAILABLE,
            StatusCode::INSUFFICIENT_STORAGE => Exit::CANNOT_CREATE,
            _ => Exit::FAILURE,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the agent refuses ({})", self.status)?;
        match &self.field {
            Some(field) if !self.detail.starts_with(field.as_str()) => {
                write!(f, ": {}", one_line(field))?;
            }
            _ => {}
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", one_line(&self.detail))?;
        }
        if self.status == StatusCode::UNAUTHORIZED {
            f.write_str("; --token-file names the file with the token")?;
        }
        Ok(())
    }
}

/// Enough of a page that is no problem document.
const SHOWN_CHARS: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_field_and_detail_and_has_its_code() {
        let body = br#"{"type":"about:blank","status":422,"detail":"must be 1 to 65535","field":"spec.ports[0].port"}"#;
        let problem = Problem::read(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(
            problem.to_string(),
            "the agent refuses (422 Unprocessable Entity): spec.ports[0].port: must be 1 to 65535"
        );
        assert_eq!(Error::Refused(problem).exit(), Exit::DATA);
    }

    #[test]
    fn exit_codes_tell_the_kinds_of_failure_apart() {
        for (status, exit) in [
            (400, Exit::USAGE),
            (401, Exit::PERMISSION),
            (403, Exit::PERMISSION),
            (404, Exit::NO_INPUT),
            (409, Exit::TRY_AGAIN),
            (500, Exit::FAILURE),
            (503, Exit::UNAVAILABLE),
        ] {
            let status = StatusCode::from_u16(status).expect("it is a status");
            let error = Error::Refused(Problem::read(status, b"<html>"));
            assert_eq!(error.exit(), exit, "{status}");
        }
        let refused = |kind: io::ErrorKind| Error::Unreachable {
            target: "127.0.0.1:1".to_owned(),
            source: kind.into(),
        };
        assert_eq!(
            refused(io::ErrorKind::ConnectionRefused).exit(),
            Exit::UNAVAILABLE
        );
        assert_eq!(
            refused(io::ErrorKind::PermissionDenied).exit(),
            Exit::PERMISSION
        );
    }
}

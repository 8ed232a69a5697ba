//! Whom checks over TLS believe.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio::task::spawn_blocking;

use crate::net::tls::{Connector, TlsError, TlsFiles};

/// Whose certificates are good. The machine's own list is read when it is needed first.
pub struct Trust {
    verified: OnceLock<Connector>,
    unverified: Connector,
}

impl Trust {
    /// Reads the authorities; `None`: those that this machine trusts.
    pub fn new(authorities: Option<PathBuf>) -> Result<Self, TlsError> {
        let trust = Self {
            verified: OnceLock::new(),
            unverified: Connector::unverified()?,
        };
        if authorities.is_some() {
            trust.read(authorities)?;
        }
        Ok(trust)
    }

    /// What makes a handshake for one check, believing every certificate if `is_insecure`.
    pub(super) async fn connector(
        self: &Arc<Self>,
        is_insecure: bool,
    ) -> Result<Connector, String> {
        if is_insecure {
            return Ok(self.unverified.clone());
        }
        if let Some(connector) = self.verified.get() {
            return Ok(connector.clone());
        }
        let trust = Arc::clone(self);
        let read = spawn_blocking(move || trust.read(None)).await;
        let read = read.map_err(|error| error.to_string())?;
        read.map_err(|error| error.to_string())
    }

    fn read(&self, authorities: Option<PathBuf>) -> Result<Connector, TlsError> {
        let connector = Connector::new(&TlsFiles {
            authorities,
            own: None,
        })?;
        Ok(self.verified.get_or_init(|| connector).clone())
    }
}

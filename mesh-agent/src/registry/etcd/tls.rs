//! TLS to etcd: whom to trust, and what to show.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Files of TLS, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that may have signed the certificates of the members; absent: those that this machine trusts.
    pub authorities: Option<PathBuf>,
    /// The own certificate with its chain, and its key, where the members ask for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// A file of authorities has none.
    #[error("{} holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// This machine says nowhere whom it trusts.
    #[error("this machine has no list of authorities where one is looked for ({}): give one", SYSTEM.join(", "))]
    NoSystem,
    /// Certificates or key are not usable.
    #[error("the certificates or the key cannot be used")]
    Unusable(#[from] rustls::Error),
}

/// Reads the files.
pub(super) fn configure(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match &files.authorities {
        Some(path) => trusted(path)?,
        None => trusted_by_machine(&SYSTEM)?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match &files.own {
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File {
                path: key.clone(),
                source,
            })?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn trusted(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The first list that is there. What rustls cannot use of it is left out: nobody has asked for it by name.
pub(super) fn trusted_by_machine(places: &[&str]) -> Result<RootCertStore, TlsError> {
    let mut places = places.iter().map(Path::new);
    let path = places.find(|it| it.is_file()).ok_or(TlsError::NoSystem)?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File {
        path: path.to_owned(),
        source,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

/// What a failed handshake is, as an error of input and output.
pub(super) fn bad_name(host: &str) -> io::Error {
    let message = format!("{host} is no name that a certificate can have");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Where distributions keep the authorities that a machine trusts (the list of Go's `crypto/x509/root_linux.go`): Debian and
/// its kin, Fedora and its kin, openSUSE, Alpine.
pub(super) const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

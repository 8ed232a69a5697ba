//! TLS as a client: whom to trust, what to show, and the handshake.

#[cfg(test)]
pub mod fixture;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    WantsVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Files of TLS, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that may have signed the certificate of the server; absent: those that this machine trusts.
    pub authorities: Option<PathBuf>,
    /// The own certificate with its chain, and its key, where the server asks for one.
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

/// Makes handshakes with the same settings.
#[derive(Clone)]
pub struct Connector(Arc<ClientConfig>);

impl Connector {
    /// Reads the files.
    pub fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        let roots = match &files.authorities {
            Some(path) => trusted(path)?,
            None => trusted_by_machine(&SYSTEM)?,
        };
        let builder = builder()?.with_root_certificates(roots);
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
        Ok(Self(Arc::new(config)))
    }

    /// Believes every certificate: hides what is sent from those who listen, not from one who stands in for the server.
    pub fn unverified() -> Result<Self, TlsError> {
        let anybody = Arc::new(Anybody(provider()));
        let config = builder()?
            .dangerous()
            .with_custom_certificate_verifier(anybody)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// The same, looking at the certificate each time, and for one protocol inside (ALPN) if that is given.
    #[must_use]
    pub fn afresh(&self, protocol: Option<&[u8]>) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.resumption = Resumption::disabled();
        config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
        Self(Arc::new(config))
    }

    /// Makes a handshake with a server that is called `name`: an address or a name of DNS.
    pub async fn connect(&self, name: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let server = ServerName::try_from(name.to_owned());
        let server = server.map_err(|_invalid| bad_name(name))?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        connector.connect(server, stream).await
    }
}

impl PartialEq for Connector {
    /// Whether they are one and the same.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Takes any certificate, but only from who has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn trusted(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The first list that is there. What rustls cannot use of it is left out: nobody has asked for it by name.
fn trusted_by_machine(places: &[&str]) -> Result<RootCertStore, TlsError> {
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

fn bad_name(host: &str) -> io::Error {
    let message = format!("{host} is no name that a certificate can have");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Where distributions keep the authorities that a machine trusts (the list of Go's `crypto/x509/root_linux.go`): Debian and
/// its kin, Fedora and its kin, openSUSE, Alpine.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_list_of_the_machine_that_is_there_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        fixture::make_certificates(folder.path());
        let [own, other] = ["authority.pem", "other.pem"]
            .map(|name| folder.path().join(name).display().to_string());
        std::fs::write(
            &other,
            std::fs::read_to_string(&own).expect("made").repeat(2),
        )
        .expect("written");
        let roots = |places: &[&str]| trusted_by_machine(places).map(|roots| roots.len());
        assert!(matches!(roots(&["/nowhere", &own, &other]), Ok(1)));
        assert!(matches!(roots(&[&other, &own]), Ok(2)));
        assert!(matches!(roots(&["/nowhere"]), Err(TlsError::NoSystem)));
    }
}

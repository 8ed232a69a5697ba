//! Servers with TLS for tests; `openssl` makes their certificates.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Makes `server.pem` with `server.key` for 127.0.0.1 and `server.test`, signed by `authority.pem`; and `other.pem`, an
/// authority that has signed nothing.
pub(crate) fn make_certificates(folder: &Path) {
    for authority in ["authority", "other"] {
        let words = format!(
            "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
        );
        openssl(folder, &words);
    }
    let names = "subjectAltName=IP:127.0.0.1,DNS:server.test\n";
    fs::write(folder.join("names"), names).expect("a folder to write to");
    openssl(
        folder,
        "req -new -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr",
    );
    openssl(
        folder,
        "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 1 -extfile names -out server.pem",
    );
}

/// Makes handshakes by the name of `server.pem`, for one protocol inside.
pub(crate) fn acceptor(folder: &Path, protocol: &str) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(folder.join("server.pem"));
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key"));
    let chain = vec![certificate.expect("a certificate")];
    let mut config = ServerConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key.expect("a key"))
        .expect("they belong together");
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn openssl(folder: &Path, words: &str) {
    let mut command = Command::new("openssl");
    let made = command
        .args(words.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}

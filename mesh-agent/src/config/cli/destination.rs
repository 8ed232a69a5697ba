//! What a workload dials, as people name it: by address, or by the name of a service.

use std::net::SocketAddr;
use std::str::FromStr;

/// What is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An address.
    Address(SocketAddr),
    /// A port of a service.
    Service {
        /// Its namespace; absent: that of the caller.
        namespace: Option<String>,
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
    },
}

/// A text that names nothing that can be dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use ADDR:PORT, NAMESPACE/SERVICE:PORT, or SERVICE.NAMESPACE.mesh:PORT")]
pub struct NoDestination;

impl FromStr for Destination {
    type Err = NoDestination;

    fn from_str(text: &str) -> Result<Self, NoDestination> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(NoDestination)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let host = host.strip_suffix(".mesh").unwrap_or(host);
        // A name may have dots, a namespace has none.
        let (namespace, name) = match (host.split_once('/'), host.rsplit_once('.')) {
            (Some((namespace, name)), _) | (None, Some((name, namespace))) => {
                (Some(namespace), name)
            }
            (None, None) => (None, host),
        };
        if name.is_empty() || namespace.is_some_and(str::is_empty) || name.contains([':', '[']) {
            return Err(NoDestination);
        }
        Ok(Self::Service {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            port: port.ok_or(NoDestination)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_name_are_told_apart() {
        for text in ["10.0.0.1:80", "[::1]:80"] {
            let address = text.parse().expect("an address");
            assert_eq!(text.parse(), Ok(Destination::Address(address)));
        }
        for (text, namespace, name) in [
            ("web.shop.mesh:80", Some("shop"), "web"),
            ("web.v1.shop.mesh:80", Some("shop"), "web.v1"),
            ("web.shop:80", Some("shop"), "web"),
            ("shop/web.v1:80", Some("shop"), "web.v1"),
            ("web:80", None, "web"),
        ] {
            let wanted = Destination::Service {
                namespace: namespace.map(str::to_owned),
                name: name.to_owned(),
                port: 80,
            };
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        for text in [
            "", "web", "web:", "web:0", "web:x", ":80", "/web:80", "::1:80",
        ] {
            assert_eq!(text.parse::<Destination>(), Err(NoDestination), "{text}");
        }
    }
}

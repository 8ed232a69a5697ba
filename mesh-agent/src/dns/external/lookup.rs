//! Asks the resolvers of the system for the addresses of a name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use mesh_common::conn::{Conn, Direction};
use mesh_common::service::DNS_PORT;
use tokio::task::spawn_blocking;

use crate::dns::upstream::Upstream;
use crate::net::conn::ConnTable;
use crate::net::netns::Netns;

/// Who is asked, and from where.
pub(in crate::dns) struct Lookup {
    pub(in crate::dns) netns: Arc<Netns>,
    pub(in crate::dns) conns: Arc<dyn ConnTable>,
    /// `resolv.conf`; read each time, since it changes with the network.
    pub(in crate::dns) file: PathBuf,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: BTreeSet<IpAddr>,
    /// How long they may be believed.
    pub(super) ttl: Duration,
    /// The family of which nobody knows whether the name has addresses: its question was not answered.
    pub(super) unknown: Option<Family>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{name} is no name: {source}")]
    Name { name: String, source: ProtoError },
    #[error("cannot read {path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path} names no resolver", path = .0.display())]
    NoResolver(PathBuf),
    #[error("there is no name {0}")]
    NoName(String),
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("{resolver} answers {code}")]
    Refused {
        resolver: SocketAddr,
        code: ResponseCode,
    },
    #[error("{resolver} does not answer: {source}")]
    Silent {
        resolver: SocketAddr,
        source: io::Error,
    },
}

impl Found {
    /// The same, where the question for the addresses of `family` came to nothing.
    fn without(self, family: Family, error: &Trouble) -> Self {
        let unknown = (!error.is_final()).then_some(family);
        Self { unknown, ..self }
    }
}

impl Trouble {
    /// The `reason` of the condition.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Name { .. } => "InvalidName",
            Self::File { .. } | Self::NoResolver(_) => "NoResolver",
            Self::NoName(_) => "NameNotFound",
            Self::NoAddress(_) => "NoAddress",
            Self::Refused { .. } | Self::Silent { .. } => "ResolverFailed",
        }
    }

    /// Whether another resolver would say the same.
    const fn is_final(&self) -> bool {
        match self {
            Self::NoName(_) | Self::NoAddress(_) | Self::Name { .. } => true,
            Self::File { .. }
            | Self::NoResolver(_)
            | Self::Refused { .. }
            | Self::Silent { .. } => false,
        }
    }
}

impl Lookup {
    /// Asks one resolver after the other, until one knows.
    pub(super) async fn find(&self, hostname: &str) -> Result<Found, Trouble> {
        let mut name = Name::from_ascii(hostname).map_err(|source| Trouble::Name {
            name: hostname.to_owned(),
            source,
        })?;
        name.set_fqdn(true);
        let mut trouble = Trouble::NoResolver(self.file.clone());
        for resolver in self.resolvers().await? {
            let (v4, v6) = tokio::join!(
                self.ask(resolver, &name, RecordType::A),
                self.ask(resolver, &name, RecordType::AAAA),
            );
            match merge(v4, v6) {
                Err(error) if !error.is_final() => trouble = error,
                known => return known,
            }
        }
        Err(trouble)
    }

    /// Where a question of somebody else is asked; nowhere, if there is no resolver.
    pub(in crate::dns) async fn any(&self) -> Option<Upstream<'_>> {
        let resolvers = self.resolvers().await.ok()?;
        resolvers.first().map(|it| self.upstream(*it))
    }

    async fn resolvers(&self) -> Result<Vec<SocketAddr>, Trouble> {
        let file = self.file.clone();
        let text = spawn_blocking(|| fs::read_to_string(file)).await;
        let text = text.map_err(io::Error::other).flatten();
        let text = text.map_err(|source| Trouble::File {
            path: self.file.clone(),
            source,
        })?;
        Ok(resolvers(&text))
    }

    async fn ask(&self, at: SocketAddr, name: &Name, kind: RecordType) -> Result<Found, Trouble> {
        let mut message = Message::query();
        message.metadata.id = rand::random();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), kind));
        let silent = |source| Trouble::Silent {
            resolver: at,
            source,
        };
        let bytes = message
            .to_vec()
            .map_err(|error| silent(io::Error::other(error)))?;
        let upstream = self.upstream(at);
        let read = |bytes: Vec<u8>| Message::from_vec(&bytes).map_err(io::Error::other);
        let mut answer = upstream
            .datagram(&bytes)
            .await
            .and_then(read)
            .map_err(silent)?;
        if answer.metadata.truncation {
            answer = upstream
                .stream(&bytes)
                .await
                .and_then(read)
                .map_err(silent)?;
        }
        addresses(&answer, name, at)
    }

    fn upstream(&self, address: SocketAddr) -> Upstream<'_> {
        Upstream {
            netns: &self.netns,
            conns: self.conns.as_ref(),
            address,
            spare: None,
            conn: Conn {
                direction: Direction::Dialled as u8,
                flags: Conn::OWN,
                ..Conn::default()
            },
            limit: LIMIT,
        }
    }
}

/// The resolvers of a `resolv.conf`.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address: IpAddr = match words.next()? {
            "nameserver" => words.next()?.parse().ok()?,
            _ => return None,
        };
        Some(SocketAddr::new(address, DNS_PORT))
    });
    lines.take(MAX_RESOLVERS).collect()
}

/// What one answer says.
fn addresses(answer: &Message, name: &Name, resolver: SocketAddr) -> Result<Found, Trouble> {
    match answer.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Err(Trouble::NoName(name.to_string())),
        code => return Err(Trouble::Refused { resolver, code }),
    }
    // Whatever name they are at: the resolver has followed the aliases.
    let addresses = answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(ip) => Some(IpAddr::V4(ip.0)),
            RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
            _ => None,
        });
    let addresses: BTreeSet<IpAddr> = addresses.take(MAX_ADDRESSES).collect();
    let ttl = answer.answers.iter().map(|record| record.ttl).min();
    match ttl {
        Some(ttl) if !addresses.is_empty() => Ok(Found {
            addresses,
            ttl: Duration::from_secs(u64::from(ttl)),
            unknown: None,
        }),
        _ => Err(Trouble::NoAddress(name.to_string())),
    }
}

/// The addresses of both families. One is enough: many resolvers know nothing of the other.
fn merge(v4: Result<Found, Trouble>, v6: Result<Found, Trouble>) -> Result<Found, Trouble> {
    match (v4, v6) {
        (Ok(mut found), Ok(more)) => {
            found.addresses.extend(more.addresses);
            found.ttl = found.ttl.min(more.ttl);
            Ok(found)
        }
        (Ok(found), Err(error)) => Ok(found.without(Family::V6, &error)),
        (Err(error), Ok(found)) => Ok(found.without(Family::V4, &error)),
        // The one that leaves more open.
        (Err(error), Err(other)) => Err(if error.is_final() { other } else { error }),
    }
}

/// For one exchange.
const LIMIT: Duration = Duration::from_secs(2);

/// As many as resolver libraries ask (`MAXNS` of glibc and musl).
const MAX_RESOLVERS: usize = 3;

/// Most addresses of a family that are taken from one answer.
const MAX_ADDRESSES: usize = 64;

#[cfg(test)]
mod tests;

//! The address of a shared registry: `etcd://user:password@host:2379,host2/prefix`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where the shared registry is.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether the members are asked over TLS (`etcds`).
    pub is_tls: bool,
    /// Who asks.
    pub user: Option<User>,
    /// The members of the cluster, at least one, in the order in which they are tried.
    pub members: Vec<Member>,
    /// What all keys begin with, without a slash at either end. Default: `mesh`. Fleets that share a cluster and
    /// nothing else have different ones.
    pub prefix: String,
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password. Never printed.
    pub password: String,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name or address; of IPv6 without brackets.
    pub host: String,
    /// Port of its clients.
    pub port: u16,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// Without the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_tls { "etcds://" } else { "etcd://" })?;
        if let Some(user) = &self.user {
            write!(f, "{}:***@", user.name)?;
        }
        for (index, member) in self.members.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{member}")?;
        }
        write!(f, "/{}", self.prefix)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Why a text is no address of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// The scheme is another.
    #[error("a registry is etcd://HOST[:PORT][,..][/PREFIX], or etcds:// over TLS")]
    Scheme,
    /// A user has no password, or is not spelled as in a URL.
    #[error("write the user as NAME:PASSWORD@, with %XX for the characters : @ / %")]
    User,
    /// A host is missing or malformed.
    #[error("write each member as HOST, HOST:PORT or [IPv6]:PORT")]
    Member,
    /// The prefix cannot be one.
    #[error("the prefix has letters, digits and . _ - / only, and at most 128 bytes")]
    Prefix,
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let (is_tls, rest) = if let Some(rest) = text.strip_prefix("etcd://") {
            (false, rest)
        } else if let Some(rest) = text.strip_prefix("etcds://") {
            (true, rest)
        } else {
            return Err(ParseAddressError::Scheme);
        };
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user_of(user).ok_or(ParseAddressError::User)?), rest),
            None => (None, rest),
        };
        let (members, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let members = members
            .split(',')
            .map(member_of)
            .collect::<Option<Vec<_>>>();
        Ok(Self {
            is_tls,
            user,
            members: members.ok_or(ParseAddressError::Member)?,
            prefix: prefix_of(prefix).ok_or(ParseAddressError::Prefix)?,
        })
    }
}

fn user_of(text: &str) -> Option<User> {
    let (name, password) = text.split_once(':')?;
    let (name, password) = (unescape(name)?, unescape(password)?);
    (!name.is_empty() && !password.is_empty()).then_some(User { name, password })
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = str::from_utf8(&digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn member_of(text: &str) -> Option<Member> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, port)
    } else {
        text.find(':').map_or((text, ""), |at| text.split_at(at))
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None if port.is_empty() => DEFAULT_PORT,
        None => return None,
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    (!host.is_empty() && host.len() <= MAX_HOST && host.chars().all(is_host)).then(|| Member {
        host: host.to_owned(),
        port,
    })
}

fn prefix_of(text: &str) -> Option<String> {
    let bare = text.trim_matches('/');
    let bare = if bare.is_empty() {
        DEFAULT_PREFIX
    } else {
        bare
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let is_prefix = bare.len() <= MAX_PREFIX && bare.chars().all(is_name) && !bare.contains("//");
    is_prefix.then(|| bare.to_owned())
}

/// Where etcd listens for its clients (registered with IANA as `etcd-client`).
const DEFAULT_PORT: u16 = 2379;
const DEFAULT_PREFIX: &str = "mesh";
const MAX_PREFIX: usize = 128;
/// Longest name in the DNS.
const MAX_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_members_a_prefix_and_perhaps_a_user() {
        for (text, printed) in [
            ("etcd://a", "etcd://a:2379/mesh"),
            (
                "etcds://a:1,b.example:2/fleet/eu/",
                "etcds://a:1,b.example:2/fleet/eu",
            ),
            (
                "etcd://[fd00::1],[::1]:80",
                "etcd://[fd00::1]:2379,[::1]:80/mesh",
            ),
            (
                "etcd://me:s%40cret%2f@10.0.0.1/x",
                "etcd://me:***@10.0.0.1:2379/x",
            ),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), printed);
        }
        let address: Address = "etcd://me:s%40cret%2f@a/x".parse().unwrap();
        let user = address.user.clone().unwrap();
        assert_eq!(
            (user.name.as_str(), user.password.as_str()),
            ("me", "s@cret/")
        );
        let shown = format!("{address:?} {}", serde_json::to_string(&address).unwrap());
        assert!(!shown.contains("cret"), "{shown}");
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_would_be_right() {
        for (text, error) in [
            ("http://a", ParseAddressError::Scheme),
            ("a:2379", ParseAddressError::Scheme),
            ("etcd://me@a", ParseAddressError::User),
            ("etcd://me:%4@a", ParseAddressError::User),
            ("etcd://", ParseAddressError::Member),
            ("etcd://a,", ParseAddressError::Member),
            ("etcd://a:0", ParseAddressError::Member),
            ("etcd://a:70000", ParseAddressError::Member),
            ("etcd://[::1]x", ParseAddressError::Member),
            ("etcd://fd00::1", ParseAddressError::Member),
            ("etcd://a/b//c", ParseAddressError::Prefix),
            ("etcd://a/b c", ParseAddressError::Prefix),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }
}

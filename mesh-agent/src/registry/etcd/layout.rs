//! Where things are in etcd. Pure.
//!
//! | key, after the prefix | value |
//! |---|---|
//! | `objects/KIND/NAMESPACE/NAME` | the object, as `apply` takes it; of an endpoint with the lease of its node |
//! | `addresses/ADDRESS` | `NAMESPACE/NAME` of the service that it was allotted to |
//! | `health/NAMESPACE/NAME` | how an endpoint is, as its node finds it; with the lease of the node |
//! | `fleet` | the name of this registry: random, and the same for ever |
//! | `nodes/NAME` | who has the name: the number of the lease; goes with it |

use std::net::IpAddr;

use crate::state::object::{Kind, ObjectKey};
use crate::state::writer::is_shared_kind;

/// The keys of one fleet.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Ends in a slash.
    prefix: String,
}

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An object.
    Object(Kind, ObjectKey),
    /// How an endpoint is.
    Health(ObjectKey),
    /// A node that holds its lease.
    Node(String),
    /// What concerns only those who write it.
    Other,
    /// What nobody writes here.
    Unknown,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}/"),
        }
    }

    /// What all keys begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn object(&self, kind: Kind, key: &ObjectKey) -> String {
        format!("{}objects/{kind}/{key}", self.prefix)
    }

    pub(super) fn address(&self, address: IpAddr) -> String {
        format!("{}addresses/{address}", self.prefix)
    }

    pub(super) fn health(&self, key: &ObjectKey) -> String {
        format!("{}health/{key}", self.prefix)
    }

    pub(super) fn node(&self, name: &str) -> String {
        format!("{}nodes/{name}", self.prefix)
    }

    pub(super) fn fleet(&self) -> String {
        format!("{}fleet", self.prefix)
    }

    /// What a key stands for.
    pub(super) fn place(&self, key: &[u8]) -> Place {
        let text = str::from_utf8(key).ok();
        let Some(rest) = text.and_then(|it| it.strip_prefix(&self.prefix)) else {
            return Place::Unknown;
        };
        let parts: Vec<&str> = rest.split('/').collect();
        match *parts.as_slice() {
            ["objects", kind, namespace, name] => {
                let mut kinds = Kind::ALL.into_iter().filter(|it| is_shared_kind(*it));
                kinds
                    .find(|it| it.name() == kind)
                    .map_or(Place::Unknown, |kind| {
                        Place::Object(kind, ObjectKey::new(namespace, name))
                    })
            }
            ["health", namespace, name] => Place::Health(ObjectKey::new(namespace, name)),
            ["nodes", ..] => {
                let name = rest.strip_prefix("nodes/").unwrap_or_default();
                Place::Node(name.to_owned())
            }
            ["addresses", ..] | ["fleet"] => Place::Other,
            _ => Place::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_again() {
        let layout = Layout::new("fleet/eu");
        let web = ObjectKey::new("shop", "web");
        for kind in Kind::ALL.into_iter().filter(|it| *it != Kind::Workload) {
            let key = layout.object(kind, &web);
            assert!(key.starts_with(layout.prefix()));
            assert_eq!(
                layout.place(key.as_bytes()),
                Place::Object(kind, web.clone())
            );
        }
        let health = layout.health(&web);
        assert_eq!(layout.place(health.as_bytes()), Place::Health(web));
        for name in ["a.b", "a/b"] {
            let node = layout.node(name);
            assert_eq!(layout.place(node.as_bytes()), Place::Node(name.to_owned()));
        }
        let address = layout.address([10, 0, 0, 1].into());
        assert_eq!(layout.place(address.as_bytes()), Place::Other);
    }

    #[test]
    fn keys_of_others_are_told_apart() {
        let layout = Layout::new("mesh");
        for key in [
            "mesh2/objects/Service/shop/web",
            "mesh/objects/Workload/shop/web",
            "mesh/objects/Service/shop",
            "mesh/objects/Service/shop/web/more",
            "mesh/objects/Pod/shop/web",
            "mesh/x",
        ] {
            assert_eq!(layout.place(key.as_bytes()), Place::Unknown, "{key}");
        }
        assert_eq!(layout.place(b"mesh/objects/\xff"), Place::Unknown);
    }
}

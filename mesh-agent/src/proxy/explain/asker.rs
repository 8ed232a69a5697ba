//! Who would ask, as policy knows it.

use mesh_common::address::Address;
use mesh_common::workload::Caller;

use crate::proxy::view::{Endpoint, View};
use crate::state::id::Subject;
use crate::state::object::ObjectKey;

/// A workload that would ask. One that is not in the registry has no identity and no address.
pub(super) struct Asker<'a> {
    /// Whose routes hold.
    pub(super) namespace: &'a str,
    identity: Caller,
    ipv4: Address,
    ipv6: Address,
}

impl<'a> Asker<'a> {
    /// The workload `key` of this view.
    pub(super) fn new(view: &View, key: &'a ObjectKey) -> Self {
        let snapshot = view.snapshot();
        let workload = view.workload(snapshot.number_of_workload(key));
        let identity = workload.map(|it| Caller {
            namespace: snapshot
                .ids
                .number(&Subject::Namespace(key.namespace.clone())),
            service_account: snapshot
                .ids
                .number(&Subject::ServiceAccount(it.service_account.clone())),
        });
        Self {
            namespace: &key.namespace,
            identity: identity.unwrap_or_default(),
            ipv4: workload.map_or(Address::UNSPECIFIED, |it| it.ipv4),
            ipv6: workload.map_or(Address::UNSPECIFIED, |it| it.ipv6),
        }
    }

    /// Whether policy keeps it from an endpoint, as it would on the way of a request.
    pub(super) fn is_denied(&self, view: &View, endpoint: &Endpoint) -> bool {
        let source = if endpoint.address.is_ipv4() {
            &self.ipv4
        } else {
            &self.ipv6
        };
        let address = endpoint.address.into();
        view.authz
            .authorize(&self.identity, source, address)
            .is_denied
    }
}

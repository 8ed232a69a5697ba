//! Stub.

use std::collections::BTreeMap;

use mesh_common::address::{Address, SocketAddress};
use mesh_common::policy::{Authorization, Policy, workload_key};
use mesh_common::workload::Caller;

use crate::state::Snapshot;

/// All policies of a snapshot, by what they protect.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The rules of each protected address and port; port 0 is a whole workload.
    pub policies: BTreeMap<SocketAddress, Policy>,
}

impl Compiled {
    /// What policy says of a caller at `source` that dials `destination`.
    #[must_use]
    pub fn authorize(
        &self,
        caller: &Caller,
        source: &Address,
        destination: SocketAddress,
    ) -> Authorization {
        let mut said = Authorization::default();
        for key in [destination, workload_key(destination.address)] {
            if let Some(policy) = self.policies.get(&key) {
                let one = policy.authorize(caller, source, destination.port);
                said.is_denied |= one.is_denied;
                said.is_audited |= one.is_audited;
            }
        }
        said
    }
}

/// Compiles every policy of `snapshot`.
#[must_use]
pub fn compile(_snapshot: &Snapshot) -> Compiled {
    Compiled::default()
}

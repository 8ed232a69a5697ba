//! What follows from a grant: what other namespaces may send to is judged anew.

use super::{ACCEPTED, Settle, condition, tell_all};
use crate::state::draft::{Draft, upsert};
use crate::state::links::Node;
use crate::state::reference_grant::ReferenceGrant;
use crate::state::resource::Resource as _;
use crate::state::store::Config;
use crate::state::{Refusal, Snapshot};

impl Settle for ReferenceGrant {
    fn judge(&mut self, _snapshot: &Snapshot, _config: &Config) -> Result<(), Refusal> {
        let accepted = condition(self, ACCEPTED, Ok(ACCEPTED));
        upsert(self.conditions_mut(), accepted);
        Ok(())
    }

    fn arrive(&self, _old: Option<&Self>, draft: &mut Draft) {
        tell_foreigners(draft, &self.metadata.namespace);
    }

    fn leave(&self, draft: &mut Draft) {
        tell_foreigners(draft, &self.metadata.namespace);
    }
}

/// Who of other namespaces sends to services of `namespace`, where a grant came, changed or went.
fn tell_foreigners(draft: &mut Draft, namespace: &str) {
    let referrers = draft.next.links().foreign_referrers(namespace);
    let referrers: Vec<Node> = referrers.into_iter().cloned().collect();
    tell_all(draft, &referrers);
}

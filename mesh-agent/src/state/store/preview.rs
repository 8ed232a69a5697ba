//! What would come of a change: nothing is written.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Store;
use crate::state::object::ObjectKey;
use crate::state::settle::addresses;
use crate::state::{Applied, Change, Origin, Refusal, virtual_address};

impl Store {
    /// What would come of a change, and whether it would write anything. Touches nothing.
    pub fn preview(&self, origin: &Origin, change: Change) -> Result<(Applied, bool), Refusal> {
        let mut draft = self.begin();
        let applied = self.draft(&mut draft, origin, change)?;
        Ok((applied, !draft.notices.is_empty()))
    }

    /// Another virtual address for a service instead of `refused`, from the same range, that is none of `taken`.
    pub fn allot_instead(
        &self,
        key: &ObjectKey,
        refused: IpAddr,
        taken: &BTreeSet<IpAddr>,
    ) -> Option<IpAddr> {
        let ranges = &self.config.virtual_ranges;
        let range = ranges.iter().find(|it| it.contains(&refused))?;
        let snapshot = self.snapshot();
        virtual_address::allot(range, key, |it| {
            addresses::is_used(&snapshot, it) || taken.contains(&it)
        })
    }
}

//! How the sources are, for the status and the metrics of the agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::state::Source;
use crate::state::report::SourceReport;

/// What each source has said last. Cheap to clone; all clones are the same board.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<Source, SourceReport>>>);

impl Board {
    /// Replaces what a source has said.
    pub fn post(&self, source: Source, report: SourceReport) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.insert(source, report);
    }

    /// What all sources have said, in the order of [`Source`].
    #[must_use]
    pub fn read(&self) -> Vec<SourceReport> {
        let reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.values().cloned().collect()
    }
}

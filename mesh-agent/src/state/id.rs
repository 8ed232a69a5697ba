//! The numbers by which the kernel knows services, endpoints, workloads and names.
//!
//! They are persisted: pinned maps and live sockets hold them across restarts. A number is never used again for
//! something else, so that a counter or an old socket never points at a stranger. Zero is "none".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::object::ObjectKey;

/// All numbers given so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The highest number given.
    last: u32,
    /// What has one.
    numbers: BTreeMap<Subject, u32>,
}

/// What has a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// A service.
    Service(ObjectKey),
    /// A service's port, by the port's name.
    Port(ObjectKey, String),
    /// An endpoint's port, by the name of the service's port.
    Endpoint(ObjectKey, String),
    /// A workload.
    Workload(ObjectKey),
    /// A policy.
    Policy(ObjectKey),
    /// The name of a namespace.
    Namespace(String),
    /// The name of a service account.
    ServiceAccount(String),
}

impl Ids {
    /// The number of `subject`; zero, which is "none", if it has none.
    #[must_use]
    pub fn number(&self, subject: &Subject) -> u32 {
        self.numbers.get(subject).copied().unwrap_or(0)
    }

    /// What has the number `number`.
    #[must_use]
    pub fn subject(&self, number: u32) -> Option<&Subject> {
        self.numbers
            .iter()
            .find(|(_, candidate)| **candidate == number)
            .map(|(subject, _)| subject)
    }

    /// Gives `subject` a number, if it has none.
    pub fn assign(&mut self, subject: Subject) -> u32 {
        if let Some(number) = self.numbers.get(&subject) {
            return *number;
        }
        self.last += 1;
        self.numbers.insert(subject, self.last);
        self.last
    }

    /// Forgets the subjects that `keep` refuses; their numbers are not given again.
    pub fn retain(&mut self, mut keep: impl FnMut(&Subject) -> bool) {
        self.numbers.retain(|subject, _| keep(subject));
    }
}

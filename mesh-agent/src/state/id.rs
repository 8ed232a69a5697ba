//! The numbers by which the kernel knows services, endpoints, workloads and names.
//!
//! They are persisted: pinned maps and live sockets hold them across restarts. A number is never used again for
//! something else, so that a counter or an old socket never points at a stranger. Zero is "none".

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::object::ObjectKey;

/// All numbers given so far. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The highest number given.
    last: u32,
    numbers: OrdMap<Arc<Subject>, u32>,
    subjects: OrdMap<u32, Arc<Subject>>,
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
    /// Restores what was persisted.
    #[must_use]
    pub fn restore(last: u32, numbers: BTreeMap<Subject, u32>) -> Self {
        let mut ids = Self::default();
        for (subject, number) in numbers {
            ids.insert(Arc::new(subject), number);
        }
        ids.last = ids.last.max(last);
        ids
    }

    /// The highest number given so far.
    #[must_use]
    pub const fn last(&self) -> u32 {
        self.last
    }

    /// The number of `subject`; zero, which is "none", if it has none.
    #[must_use]
    pub fn number(&self, subject: &Subject) -> u32 {
        self.numbers.get(subject).copied().unwrap_or(0)
    }

    /// What has the number `number`.
    #[must_use]
    pub fn subject(&self, number: u32) -> Option<&Subject> {
        self.subjects.get(&number).map(|subject| &**subject)
    }

    /// Everything that has a number.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, u32)> {
        self.numbers
            .iter()
            .map(|(subject, number)| (&**subject, *number))
    }

    /// The names of the ports of the service or endpoint that `first` belongs to. `first` has the empty name.
    #[must_use]
    pub fn ports_of(&self, first: &Subject) -> Vec<String> {
        self.numbers
            .range::<_, Subject>(first..)
            .map_while(|(subject, _)| match (first, &**subject) {
                (Subject::Port(owner, _), Subject::Port(key, name))
                | (Subject::Endpoint(owner, _), Subject::Endpoint(key, name))
                    if key == owner =>
                {
                    Some(name.clone())
                }
                _ => None,
            })
            .collect()
    }

    /// Gives `subject` a number, if it has none.
    pub fn assign(&mut self, subject: Subject) -> u32 {
        if let Some(number) = self.numbers.get(&subject) {
            return *number;
        }
        let number = self.last + 1;
        self.insert(Arc::new(subject), number);
        number
    }

    fn insert(&mut self, subject: Arc<Subject>, number: u32) {
        self.last = self.last.max(number);
        self.subjects.insert(number, Arc::clone(&subject));
        self.numbers.insert(subject, number);
    }

    /// Forgets the number of `subject`, and says which it was; it is not given again.
    pub fn forget(&mut self, subject: &Subject) -> Option<u32> {
        let number = self.numbers.remove(subject)?;
        self.subjects.remove(&number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgotten_number_is_never_given_again() {
        let mut ids = Ids::default();
        let subject = Subject::Namespace("shop".to_owned());
        let first = ids.assign(subject.clone());

        assert_eq!(ids.assign(subject.clone()), first);
        assert_eq!(ids.forget(&subject), Some(first));
        assert_eq!(ids.number(&subject), 0);
        let mut restored = Ids::restore(ids.last(), BTreeMap::new());
        assert!(restored.assign(subject) > first);
    }
}

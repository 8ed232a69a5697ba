//! The next snapshot while it is made: what was written, which numbers were given, who has to be told.

use std::sync::Arc;

use super::change::NoticeKind;
use super::id::Subject;
use super::object::{Condition, ObjectKey};
use super::resource::Resource;
use super::settle::Settle;
use super::{Manifest, Notice, Snapshot};

/// A snapshot in the making. Dropped, it leaves no trace.
pub(super) struct Draft {
    /// The write that made the view it started from.
    pub(super) base: u64,
    /// The time of the write, RFC 3339.
    pub(super) now: String,
    /// What will be published.
    pub(super) next: Snapshot,
    /// What watchers will be told, in order.
    pub(super) notices: Vec<Notice>,
    /// Numbers that were given.
    pub(super) assigned: Vec<(u32, Subject)>,
    /// Numbers that were given back.
    pub(super) forgotten: Vec<u32>,
}

impl Draft {
    /// Starts from the current view.
    pub(super) fn new(current: &Snapshot, now: String) -> Self {
        Self {
            now,
            base: current.revision,
            next: current.clone(),
            notices: Vec::new(),
            assigned: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    /// Puts a new version of an object in place, and numbers the write.
    pub(super) fn write<R: Resource>(&mut self, mut object: R) -> Manifest {
        self.next.revision += 1;
        object.metadata_mut().resource_version = self.next.revision.to_string();
        let object = Arc::new(object);
        let key = key_of(&*object);
        let old = R::all_mut(&mut self.next).insert(key, Arc::clone(&object));
        let event = match old {
            Some(_) => NoticeKind::Modified,
            None => NoticeKind::Added,
        };
        let new = R::into_manifest(object);
        if let Some(links) = self.next.links.get_mut() {
            Arc::make_mut(links).replace(old.map(R::into_manifest).as_ref(), Some(&new));
        }
        self.tell(event, new)
    }

    /// Takes an object away. `None` where there is none.
    pub(super) fn remove<R: Settle>(&mut self, key: &ObjectKey) -> Option<Manifest> {
        let old = R::all_mut(&mut self.next).remove(key)?;
        self.next.revision += 1;
        let mut last = Arc::unwrap_or_clone(old);
        last.say_farewell(&self.now);
        last.metadata_mut().resource_version = self.next.revision.to_string();
        let last = R::into_manifest(Arc::new(last));
        if let Some(links) = self.next.links.get_mut() {
            Arc::make_mut(links).replace(Some(&last), None);
        }
        Some(self.tell(NoticeKind::Deleted, last))
    }

    /// Sets a condition of an object; a new version only where that changes something.
    pub(super) fn set_condition<R: Resource>(
        &mut self,
        key: &ObjectKey,
        condition: Condition,
    ) -> Option<Manifest> {
        self.set_conditions::<R>(key, vec![condition])
    }

    /// The same for several at once.
    pub(super) fn set_conditions<R: Resource>(
        &mut self,
        key: &ObjectKey,
        conditions: Vec<Condition>,
    ) -> Option<Manifest> {
        let object = R::all(&self.next).get(key)?;
        let old = object.conditions();
        if conditions.iter().all(|it| old.contains(it)) {
            return None;
        }
        let mut object = R::clone(object);
        for condition in conditions {
            upsert(object.conditions_mut(), condition);
        }
        Some(self.write(object))
    }

    /// Takes a condition of an object away, where it is there.
    pub(super) fn remove_condition<R: Resource>(
        &mut self,
        key: &ObjectKey,
        kind: &str,
    ) -> Option<Manifest> {
        let object = R::all(&self.next).get(key)?;
        if object.conditions().iter().all(|it| it.kind != kind) {
            return None;
        }
        let mut object = R::clone(object);
        object.conditions_mut().retain(|it| it.kind != kind);
        Some(self.write(object))
    }

    /// Gives a number to what has none.
    pub(super) fn assign(&mut self, subject: Subject) {
        if self.next.ids.number(&subject) == 0 {
            let number = self.next.ids.assign(subject.clone());
            self.assigned.push((number, subject));
        }
    }

    /// Takes a number back; it is not given again.
    pub(super) fn forget(&mut self, subject: &Subject) {
        if self.next.ids.number(subject) != 0
            && let Some(number) = self.next.ids.forget(subject)
        {
            self.forgotten.push(number);
        }
    }

    fn tell(&mut self, event: NoticeKind, object: Manifest) -> Manifest {
        self.notices.push(Notice {
            revision: self.next.revision,
            event,
            object: object.clone(),
        });
        object
    }
}

/// Replaces the condition of the same type, or adds it.
pub(super) fn upsert(conditions: &mut Vec<Condition>, condition: Condition) {
    match conditions.iter_mut().find(|it| it.kind == condition.kind) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

fn key_of<R: Resource>(object: &R) -> ObjectKey {
    let metadata = object.metadata();
    ObjectKey::new(&metadata.namespace, &metadata.name)
}

//! What the endpoints of this node have yet to tell etcd: one entry per endpoint, the last word of each. Pure.
//!
//! The store of the node is the truth about its own endpoints, so that an entry says which one, and not what.

use std::collections::BTreeMap;

use crate::state::object::ObjectKey;

/// Entries that are waiting.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    entries: BTreeMap<ObjectKey, Entry>,
    last: u64,
}

/// What is to be told of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) word: Word,
    /// Grows with each entry: tells a later word from one that is being told.
    pub(super) number: u64,
    /// Whether the store has what is to be told, and etcd may take it.
    is_ready: bool,
}

/// An entry that is not ready, and what it has taken the place of.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) key: ObjectKey,
    pub(super) number: u64,
    before: Option<Entry>,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It is as the store of this node has it.
    Put,
    /// It is gone.
    Delete,
}

/// Endpoints of one node that may wait; more are refused.
pub(super) const MAX_WAITING: usize = 1 << 16;

impl Outbox {
    /// Adds a word, in place of an earlier one of the same endpoint. `None` where there is no room.
    pub(super) fn add(&mut self, key: &ObjectKey, word: Word) -> Option<u64> {
        let reserved = self.reserve(key, word)?;
        self.release(&reserved);
        Some(reserved.number)
    }

    /// The same for what the store does not have yet: it is not told before it is [released](Self::release).
    pub(super) fn reserve(&mut self, key: &ObjectKey, word: Word) -> Option<Reserved> {
        if self.entries.len() >= MAX_WAITING && !self.entries.contains_key(key) {
            return None;
        }
        self.last += 1;
        let entry = Entry {
            word,
            number: self.last,
            is_ready: false,
        };
        let before = self.entries.insert(key.clone(), entry);
        Some(Reserved {
            key: key.clone(),
            number: self.last,
            before,
        })
    }

    /// Says that the store has what is to be told.
    pub(super) fn release(&mut self, reserved: &Reserved) {
        let entry = self.entries.get_mut(&reserved.key);
        if let Some(entry) = entry.filter(|it| it.number == reserved.number) {
            entry.is_ready = true;
        }
    }

    /// Takes a word back that came to nothing: the one before it is to be told again.
    pub(super) fn cancel(&mut self, reserved: Reserved) {
        let Reserved {
            key,
            number,
            before,
        } = reserved;
        if self.entries.get(&key).is_none_or(|it| it.number != number) {
            return;
        }
        match before {
            Some(before) => self.entries.insert(key, before),
            None => self.entries.remove(&key),
        };
    }

    /// At most `limit` entries, the longest waiting first. They stay until they are [told](Self::told).
    pub(super) fn next(&self, limit: usize) -> Vec<(ObjectKey, Entry)> {
        let ready = self.entries.iter().filter(|(_, entry)| entry.is_ready);
        let mut entries: Vec<_> = ready.map(|(key, it)| (key.clone(), *it)).collect();
        entries.sort_by_key(|(_, entry)| entry.number);
        entries.truncate(limit);
        entries
    }

    /// Takes an entry away that was told, unless a later word has taken its place.
    pub(super) fn told(&mut self, key: &ObjectKey, number: u64) {
        if self.entries.get(key).is_some_and(|it| it.number == number) {
            self.entries.remove(key);
        }
    }

    /// Lets an entry wait that etcd refuses, until a later word takes its place: it holds nobody up.
    pub(super) fn set_aside(&mut self, key: &ObjectKey, number: u64) {
        let entry = self.entries.get_mut(key);
        if let Some(entry) = entry.filter(|it| it.number == number) {
            entry.is_ready = false;
        }
    }

    /// Whether a word of this number or an earlier one is waiting.
    pub(super) fn is_waiting(&self, key: &ObjectKey, number: u64) -> bool {
        self.entries.get(key).is_some_and(|it| it.number <= number)
    }

    /// The word that is waiting.
    pub(super) fn word(&self, key: &ObjectKey) -> Option<Word> {
        self.entries.get(key).map(|it| it.word)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    #[test]
    fn only_the_last_word_is_told_and_none_is_lost_while_it_is() {
        let mut outbox = Outbox::default();
        outbox.add(&key("a"), Word::Put).unwrap();
        outbox.add(&key("b"), Word::Put).unwrap();
        let [(first, telling), _] = outbox.next(10).try_into().unwrap();
        assert_eq!(first, key("a"));

        let later = outbox.add(&key("a"), Word::Delete).unwrap();
        outbox.told(&first, telling.number);

        assert_eq!(outbox.word(&key("a")), Some(Word::Delete));
        assert!(outbox.is_waiting(&key("a"), later));
        assert_eq!(outbox.next(1)[0].0, key("b"), "it waits longer");
        outbox.told(&key("a"), later);
        assert!(!outbox.is_waiting(&key("a"), later));
        assert_eq!(outbox.len(), 1);
    }

    #[test]
    fn word_is_not_told_before_the_store_has_it_and_not_at_all_where_it_refuses() {
        let mut outbox = Outbox::default();
        let first = outbox.add(&key("a"), Word::Put).unwrap();
        let reserved = outbox.reserve(&key("a"), Word::Delete).unwrap();
        assert_eq!(outbox.next(1), []);
        assert!(
            !outbox.is_waiting(&key("a"), first),
            "a later word has its place"
        );

        outbox.cancel(reserved);

        assert_eq!(outbox.next(1)[0].1.number, first);
        let reserved = outbox.reserve(&key("b"), Word::Put).unwrap();
        outbox.release(&reserved);
        assert_eq!(outbox.next(2).len(), 2);
    }

    #[test]
    fn word_that_is_refused_holds_nobody_up_and_gives_way_to_a_later_one() {
        let mut outbox = Outbox::default();
        let first = outbox.add(&key("a"), Word::Put).unwrap();
        outbox.add(&key("b"), Word::Put).unwrap();

        outbox.set_aside(&key("a"), first);

        assert_eq!(outbox.next(1)[0].0, key("b"));
        assert_eq!(outbox.word(&key("a")), Some(Word::Put), "it is not told");
        let later = outbox.add(&key("a"), Word::Put).unwrap();
        outbox.set_aside(&key("a"), first);
        assert_eq!(outbox.next(2)[1].1.number, later);
    }

    #[test]
    fn full_outbox_takes_no_further_endpoint_and_new_words_of_those_it_has() {
        let mut outbox = Outbox::default();
        for index in 0..MAX_WAITING {
            outbox.add(&key(&index.to_string()), Word::Put).unwrap();
        }
        assert_eq!(outbox.add(&key("more"), Word::Put), None);
        assert!(outbox.add(&key("0"), Word::Delete).is_some());
    }
}

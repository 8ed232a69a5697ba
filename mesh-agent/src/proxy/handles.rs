//! A short list of things that are found once and read without waiting: handles to series.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// Handles found so far, for readers that never wait. There are few per list.
#[derive(Debug)]
pub(crate) struct Handles<K, V>(ArcSwap<Vec<(K, Arc<V>)>>);

impl<K, V> Default for Handles<K, V> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<K: Clone + PartialEq, V> Handles<K, V> {
    /// The handle of `key`; the first who asks makes it.
    pub(crate) fn find_or_make(&self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        let find = |list: &[(K, Arc<V>)]| {
            list.iter()
                .find(|(candidate, _)| candidate == key)
                .map(|(_, value)| Arc::clone(value))
        };
        if let Some(value) = find(&self.0.load()) {
            return value;
        }
        // Two who make the same handle get the same counters from the family, so it does not matter which is kept.
        let value = Arc::new(make());
        self.0.rcu(|list| {
            let mut list = Vec::clone(list);
            if find(&list).is_none() {
                list.push((key.clone(), Arc::clone(&value)));
            }
            list
        });
        value
    }

    /// Lets go of what is not to be kept.
    pub(crate) fn retain(&self, keep: impl Fn(&K) -> bool) {
        if self.0.load().iter().all(|(key, _)| keep(key)) {
            return;
        }
        self.0.rcu(|list| {
            let kept = list.iter().filter(|(key, _)| keep(key));
            kept.cloned().collect::<Vec<_>>()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Handles;

    #[test]
    fn a_handle_is_made_once() {
        let handles = Handles::default();
        assert_eq!(*handles.find_or_make(&1, || "one"), "one");
        assert_eq!(*handles.find_or_make(&2, || "two"), "two");
        assert_eq!(*handles.find_or_make(&1, || "another"), "one");
        handles.retain(|key| *key != 1);
        assert_eq!(*handles.find_or_make(&1, || "another"), "another");
        assert_eq!(*handles.find_or_make(&2, || "another"), "two");
    }
}

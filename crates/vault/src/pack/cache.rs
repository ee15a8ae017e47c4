//! A cache with a budget in bytes.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps what was used lately, within about `budget` bytes, in two generations: when the young one is full it
/// becomes the old one and what was old and not used since goes.
pub(crate) struct Cache<K, V> {
    budget: usize,
    generations: Mutex<Generations<K, V>>,
}

struct Generations<K, V> {
    young: HashMap<K, (Arc<V>, usize)>,
    young_bytes: usize,
    old: HashMap<K, (Arc<V>, usize)>,
}

impl<K, V> std::fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({} bytes)", self.budget)
    }
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    pub(crate) fn new(budget: usize) -> Self {
        let generations = Generations { young: HashMap::new(), young_bytes: 0, old: HashMap::new() };
        Self { budget, generations: Mutex::new(generations) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, _)) = generations.young.get(key) {
            return Some(Arc::clone(value));
        }
        let (value, bytes) = generations.old.remove(key)?;
        generations.insert(self.budget, key.clone(), Arc::clone(&value), bytes);
        Some(value)
    }

    /// Drops what is kept under `key`.
    pub(crate) fn remove(&self, key: &K) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.old.remove(key);
        if let Some((_, bytes)) = generations.young.remove(key) {
            generations.young_bytes -= bytes;
        }
    }

    /// Keeps `value`, which takes about `bytes`.
    pub(crate) fn put(&self, key: K, value: Arc<V>, bytes: usize) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(self.budget, key, value, bytes);
    }
}

impl<K: Eq + Hash, V> Generations<K, V> {
    fn insert(&mut self, budget: usize, key: K, value: Arc<V>, bytes: usize) {
        if self.young_bytes + bytes > budget / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        if let Some((_, before)) = self.young.insert(key, (value, bytes)) {
            self.young_bytes -= before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_budget_holds() {
        let cache = Cache::new(100);
        for key in 0..1000_u32 {
            cache.put(key, Arc::new(key), 10);
            assert_eq!(cache.get(&0).as_deref(), Some(&0));
            let held = cache.generations.lock().unwrap();
            assert!(held.young.len() + held.old.len() <= 12);
        }
        assert_eq!(cache.get(&500), None);
    }

    #[test]
    fn what_was_removed_is_gone_and_takes_no_room() {
        let cache = Cache::new(100);
        for key in 0..6_u32 {
            cache.put(key, Arc::new(key), 10);
        }
        cache.put(5, Arc::new(50), 10);
        assert_eq!(cache.get(&5).as_deref(), Some(&50));
        for key in 0..6 {
            cache.remove(&key);
            assert_eq!(cache.get(&key), None);
        }
        assert_eq!(cache.generations.lock().unwrap().young_bytes, 0);
    }
}

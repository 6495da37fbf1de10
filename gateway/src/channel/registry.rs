//! The channels of a gateway by key. Each exists only while it is in use.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard},
};

/// Number of locks: few sockets contend for one.
pub const SHARDS: usize = 64;

/// Values by key, in shards with a lock each.
pub struct Registry<K, V> {
    shards: Vec<Mutex<HashMap<K, Arc<V>>>>,
    hasher: RandomState,
}

impl<K, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq + Copy, V> Registry<K, V> {
    fn shard_of(&self, key: &K) -> MutexGuard<'_, HashMap<K, Arc<V>>> {
        self.shard(usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default())
    }

    /// Locks a shard.
    pub fn shard(&self, index: usize) -> MutexGuard<'_, HashMap<K, Arc<V>>> {
        self.shards[index].lock().expect("no holder of this lock panics")
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        self.shard_of(key).get(key).cloned()
    }

    /// The value of a key, made under the lock if there is none.
    pub fn get_or_add(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        self.shard_of(&key).entry(key).or_insert_with(|| Arc::new(make())).clone()
    }

    /// Removes a value that lingers and that only this registry still holds; then calls `removed` under the lock.
    /// Returns whether another check is needed, because the value lingers but someone holds it.
    pub fn remove_unused(&self, key: &K, lingers: impl FnOnce(&V) -> bool, removed: impl FnOnce()) -> bool {
        let mut shard = self.shard_of(key);
        let Some(value) = shard.get(key).filter(|value| lingers(value)) else { return false };
        // New holders come through this lock, or clone the value of a holder that is counted here.
        if Arc::strong_count(value) > 1 {
            return true;
        }
        shard.remove(key);
        if shard.len() < shard.capacity() / 8 {
            shard.shrink_to_fit();
        }
        removed();
        false
    }

    /// Every value.
    pub fn all(&self) -> Vec<Arc<V>> {
        (0..SHARDS).flat_map(|index| self.shard(index).values().cloned().collect::<Vec<_>>()).collect()
    }
}

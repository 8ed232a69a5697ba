//! Throw-away: the agreed shape of the tables, until the kernel side is merged.

use std::sync::{Mutex, PoisonError};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuHashMap};
use mesh_common::address::{Address, SocketAddress};
use mesh_common::endpoint::Endpoint;
use mesh_common::policy::Policy;
use mesh_common::service::{ListenerKey, Service, ServiceKey, SlotKey};
use mesh_common::settings::Settings;
use mesh_common::stats::StatKey;
use mesh_common::workload::Workload;

/// Why a table cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The kernel refuses.
    #[error("cannot use map {map}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
}

/// One map.

pub struct Table<K: Pod, V: Pod> {
    name: &'static str,
    capacity: u32,
    map: Mutex<HashMap<MapData, K, V>>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Most entries.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<MapData, K, V>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, source: MapError) -> TableError {
        TableError::Map {
            map: self.name,
            source,
        }
    }

    /// Reads.
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        match self.map().get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Writes.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), TableError> {
        self.map()
            .insert(key, value, 0)
            .map_err(|error| self.error(error))
    }

    /// Writes what is not there.
    pub fn insert_new(&self, key: &K, value: &V) -> Result<(), TableError> {
        self.map()
            .insert(key, value, 1)
            .map_err(|error| self.error(error))
    }

    /// Removes.
    pub fn remove(&self, key: &K) -> Result<bool, TableError> {
        match self.map().remove(key) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Every key.
    pub fn keys(&self) -> Result<Vec<K>, TableError> {
        Ok(self.entries()?.into_iter().map(|(key, _)| key).collect())
    }

    /// Everything.
    pub fn entries(&self) -> Result<Vec<(K, V)>, TableError> {
        self.map()
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(error))
    }
}

/// One map with a value per CPU.

pub struct PerCpuTable<K: Pod> {
    name: &'static str,
    capacity: u32,
    map: Mutex<PerCpuHashMap<MapData, K, u64>>,
}

impl<K: Pod> PerCpuTable<K> {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Most entries.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Sum of one entry.
    pub fn get(&self, key: &K) -> Result<Option<u64>, TableError> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        match map.get(key, 0) {
            Ok(values) => Ok(Some(values.iter().sum())),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(TableError::Map {
                map: self.name,
                source,
            }),
        }
    }

    /// All sums.
    pub fn entries(&self) -> Result<Vec<(K, u64)>, TableError> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.iter()
            .map(|entry| entry.map(|(key, values)| (key, values.iter().sum())))
            .collect::<Result<_, _>>()
            .map_err(|source| TableError::Map {
                map: self.name,
                source,
            })
    }
}

/// All maps.

#[expect(missing_docs, reason = "throw-away")]
pub struct Tables {
    pub workloads: Table<u64, Workload>,
    pub cgroups: Table<u64, Workload>,
    pub identities: Table<Address, Workload>,
    pub services: Table<ServiceKey, Service>,
    pub slots: Table<SlotKey, u32>,
    pub endpoints: Table<u32, Endpoint>,
    pub settings: Table<u32, Settings>,
    pub listeners: Table<ListenerKey, u32>,
    pub open: Table<u32, u64>,
    pub cursors: Table<u32, u64>,
    pub policy: Table<SocketAddress, Policy>,
    pub stats: PerCpuTable<StatKey>,
}

/// Unused.
pub fn open(_map: Map) {}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tables")
    }
}

//! A typed handle of one kernel map.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::slice;

use aya::Pod;

use super::{Error, batch, sys};

/// Reading or writing a map failed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No room for another entry.
    #[error("map {name} is full")]
    Full {
        /// The map.
        name: &'static str,
    },
    /// [`Table::insert_new`] found the key.
    #[error("map {name} already has this key")]
    Exists {
        /// The map.
        name: &'static str,
    },
    /// The kernel refused.
    #[error("cannot {action} map {name}")]
    Refused {
        /// `read`, `write`.
        action: &'static str,
        /// The map.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A pinned map, whatever its types.
#[derive(Debug)]
struct Handle {
    fd: OwnedFd,
    name: &'static str,
    capacity: u32,
    value_size: usize,
}

impl Handle {
    fn open(directory: &Path, name: &'static str, key_size: usize) -> Result<Self, Error> {
        let path = directory.join(name);
        let failed = |source| Error::Pin {
            path: path.clone(),
            source,
        };
        let fd = sys::open_pin(&path).map_err(failed)?;
        let info = sys::map_info(fd.as_fd()).map_err(failed)?;
        if usize::try_from(info.key_size).ok() != Some(key_size) {
            return Err(Error::ForeignPin { path });
        }
        Ok(Self {
            fd,
            name,
            capacity: info.max_entries,
            value_size: usize::try_from(info.value_size).unwrap_or(usize::MAX),
        })
    }

    fn read_failed(&self, source: io::Error) -> TableError {
        TableError::Refused {
            action: "read",
            name: self.name,
            source,
        }
    }

    fn write_failed(&self, source: io::Error) -> TableError {
        let name = self.name;
        match source.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => TableError::Full { name },
            Some(libc::EEXIST) => TableError::Exists { name },
            _ => TableError::Refused {
                action: "write",
                name,
                source,
            },
        }
    }

    fn keys<K: Pod>(&self) -> Result<Vec<K>, TableError> {
        let mut keys = Vec::new();
        let mut previous = None;
        // Where entries come and go meanwhile the kernel may start over: no more than fit are listed.
        while keys.len() < usize::try_from(self.capacity).unwrap_or(usize::MAX)
            && let Some(key) = sys::next_key(self.fd.as_fd(), previous.as_ref())
                .map_err(|source| self.read_failed(source))?
        {
            keys.push(key);
            previous = Some(key);
        }
        Ok(keys)
    }
}

/// A map from `K` to `V`.
#[derive(Debug)]
pub struct Table<K, V> {
    handle: Handle,
    entry: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens the map pinned in `directory` under `name`.
    pub(super) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        let handle = Handle::open(directory, name, size_of::<K>())?;
        if handle.value_size != size_of::<V>() {
            return Err(Error::ForeignPin {
                path: directory.join(name),
            });
        }
        Ok(Self {
            handle,
            entry: PhantomData,
        })
    }

    /// The name of the map.
    pub const fn name(&self) -> &'static str {
        self.handle.name
    }

    /// Most entries it can have.
    pub const fn capacity(&self) -> u32 {
        self.handle.capacity
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let mut value = [zeroed::<V>()];
        let found = sys::lookup(self.handle.fd.as_fd(), key, &mut value)
            .map_err(|source| self.handle.read_failed(source))?;
        let [value] = value;
        Ok(found.map(|()| value))
    }

    /// Writes an entry, whether the key is there or not.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), TableError> {
        sys::update(self.handle.fd.as_fd(), key, slice::from_ref(value), 0)
            .map_err(|source| self.handle.write_failed(source))
    }

    /// Writes an entry unless the key is there.
    pub fn insert_new(&self, key: &K, value: &V) -> Result<(), TableError> {
        sys::update(
            self.handle.fd.as_fd(),
            key,
            slice::from_ref(value),
            sys::NO_EXIST,
        )
        .map_err(|source| self.handle.write_failed(source))
    }

    /// Removes an entry, and says whether it was there.
    pub fn remove(&self, key: &K) -> Result<bool, TableError> {
        sys::delete(self.handle.fd.as_fd(), key).map_err(|source| self.handle.write_failed(source))
    }

    /// Every key. Entries that come and go meanwhile may be missed, or seen twice.
    pub fn keys(&self) -> Result<Vec<K>, TableError> {
        self.handle.keys()
    }

    /// How many entries there are, with the same reservation.
    pub fn count(&self) -> Result<usize, TableError> {
        let mut count = 0;
        let batches = batch::visit(self.handle.fd.as_fd(), |keys: &[K], _: &[V]| {
            count += keys.len();
        });
        match batches {
            Ok(()) => Ok(count),
            // Not of maps of this type.
            Err(_) => self.keys().map(|keys| keys.len()),
        }
    }

    /// Every entry, in any order, with the same reservation.
    pub fn entries(&self) -> Result<Vec<(K, V)>, TableError> {
        let mut entries = Vec::new();
        let batches = batch::visit(self.handle.fd.as_fd(), |keys: &[K], values: &[V]| {
            entries.extend(keys.iter().copied().zip(values.iter().copied()));
        });
        if batches.is_ok() {
            return Ok(entries);
        }
        entries.clear();
        for key in self.keys()? {
            if let Some(value) = self.get(&key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }
}

impl<K, V> AsFd for Table<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.fd.as_fd()
    }
}

/// A map from `K` to one count per CPU.
#[derive(Debug)]
pub struct PerCpuTable<K> {
    handle: Handle,
    cpus: usize,
    key: PhantomData<fn(K)>,
}

impl<K: Pod> PerCpuTable<K> {
    /// Opens the map pinned in `directory` under `name`.
    pub(super) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        let handle = Handle::open(directory, name, size_of::<K>())?;
        let path = directory.join(name);
        if handle.value_size != size_of::<u64>() {
            return Err(Error::ForeignPin { path });
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| Error::Pin { path, source })?;
        Ok(Self {
            handle,
            cpus,
            key: PhantomData,
        })
    }

    /// The name of the map.
    pub const fn name(&self) -> &'static str {
        self.handle.name
    }

    /// Most entries it can have.
    pub const fn capacity(&self) -> u32 {
        self.handle.capacity
    }

    /// The count of a key over all CPUs.
    pub fn get(&self, key: &K) -> Result<Option<u64>, TableError> {
        let mut counts = vec![0_u64; self.cpus];
        let found = sys::lookup(self.handle.fd.as_fd(), key, &mut counts)
            .map_err(|source| self.handle.read_failed(source))?;
        Ok(found.map(|()| counts.iter().sum()))
    }

    /// Every key. Entries that come and go meanwhile may be missed, or seen twice.
    pub fn keys(&self) -> Result<Vec<K>, TableError> {
        self.handle.keys()
    }

    /// Writes a count that no kernel program adds to.
    pub fn insert(&self, key: &K, count: u64) -> Result<(), TableError> {
        self.update(key, count, 0)
    }

    /// Writes a count unless the key is there.
    pub fn insert_new(&self, key: &K, count: u64) -> Result<(), TableError> {
        self.update(key, count, sys::NO_EXIST)
    }

    fn update(&self, key: &K, count: u64, flags: u64) -> Result<(), TableError> {
        let mut counts = vec![0; self.cpus];
        if let Some(first) = counts.first_mut() {
            *first = count;
        }
        sys::update(self.handle.fd.as_fd(), key, &counts, flags)
            .map_err(|source| self.handle.write_failed(source))
    }

    /// Every count over all CPUs.
    pub fn entries(&self) -> Result<Vec<(K, u64)>, TableError> {
        let mut entries = Vec::new();
        for key in self.handle.keys()? {
            if let Some(count) = self.get(&key)? {
                entries.push((key, count));
            }
        }
        Ok(entries)
    }

    /// Removes a count, and says whether it was there.
    pub fn remove(&self, key: &K) -> Result<bool, TableError> {
        sys::delete(self.handle.fd.as_fd(), key).map_err(|source| self.handle.write_failed(source))
    }
}

fn zeroed<V: Pod>() -> V {
    // SAFETY: every byte pattern is a value of a `Pod`.
    unsafe { std::mem::zeroed() }
}

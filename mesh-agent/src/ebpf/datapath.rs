//! The data path in the kernel, as the agent holds it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Map, MapData, RingBuf};
use mesh_common::SCHEMA;
use mesh_common::names::{map, program};
use mesh_common::service::ListenerKey;
use mesh_common::settings::Settings;

use super::attach::{self, Cgroup};
use super::link::{self, Target};
use super::load::{self, Globals, Programs};
use super::offsets::Offsets;
use super::pins::Pins;
use super::sys::AttachType;
use super::{Config, Error, Tables, acceleration, probe, stats, sys};
use crate::net::netns::Netns;
use crate::state::report::{Acceleration, BpfReport, ProgramReport};

/// Age of the heartbeat from which on the agent counts as hung.
const STALE_AFTER_NS: u64 = 3_000_000_000;

/// Programs, maps and links. Dropping it leaves all of them in the kernel, as the death of the agent does.
#[derive(Debug)]
pub struct Datapath {
    tables: Tables,
    programs: Programs,
    pins: Pins,
    cgroup: Cgroup,
    settings: Mutex<Settings>,
    acceleration: Acceleration,
    /// Keeps other agents out.
    _lock: Option<File>,
}

impl Datapath {
    /// Loads and attaches, or takes over what an earlier agent has left pinned: connections made meanwhile see either
    /// the old programs or the new ones, never none.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let cgroup = Cgroup::open(&config.cgroup)?;
        let pins = Pins::create(&config.pin_dir)?;
        let lock = Pins::lock(&config.pin_dir)?;
        let globals = Globals {
            offsets: Offsets::of_kernel(),
            has_skb_netns: probe::has_skb_netns(),
        };
        let programs = load::load(&pins.maps, &globals)?;
        let tables = Tables::open(&pins.maps)?;
        // Where there is no room, the first run of `stats::prune` makes it.
        if let Err(error) = stats::reserve(&tables) {
            tracing::warn!(%error, "cannot make the counter of lost counts");
        }
        let mut settings = first_settings(&tables)?;
        attach::attach(&pins, &programs, &cgroup)?;
        let acceleration = acceleration::decide(
            config.acceleration,
            globals.offsets.is_some(),
            (&tables, &mut settings),
            (&programs, &cgroup),
        )?;
        Ok(Self {
            tables,
            programs,
            pins,
            cgroup,
            settings: Mutex::new(settings),
            acceleration,
            _lock: lock,
        })
    }

    /// The maps.
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Whether sockets are paired, and why not.
    pub const fn acceleration(&self) -> &Acceleration {
        &self.acceleration
    }

    /// The hooked cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup.path
    }

    /// Number of the hooked cgroup.
    pub const fn cgroup_id(&self) -> u64 {
        self.cgroup.number
    }

    /// A reader of `EVENTS`. There should be one only.
    pub fn events(&self) -> Result<RingBuf<MapData>, Error> {
        let path = self.pins.maps.join(map::EVENTS);
        let data = MapData::from_pin(&path).map_err(aya::EbpfError::from);
        let ring = data.and_then(|data| Ok(RingBuf::try_from(Map::RingBuf(data))?));
        Ok(ring.map_err(Box::new)?)
    }

    /// Checks what arrives in a network namespace, from now on. `name` is the namespace's cookie in decimal.
    pub fn attach_netns(&self, name: &str, netns: BorrowedFd<'_>) -> Result<(), Error> {
        let path = self.netns_path(name);
        let number = inode(netns).map_err(|source| Error::Attach {
            path: path.clone(),
            source,
        })?;
        let lookup = program::SK_LOOKUP;
        let program = self
            .programs
            .get(lookup)
            .ok_or(Error::NoProgram { name: lookup })?;
        let target = Target { fd: netns, number };
        link::attach(&path, program.as_fd(), target, AttachType::BPF_SK_LOOKUP)
    }

    /// Stops checking; a namespace that was not attached is no error.
    pub fn detach_netns(&self, name: &str) -> Result<(), Error> {
        let path = self.netns_path(name);
        if path.exists() {
            link::detach(&path)
        } else {
            Ok(())
        }
    }

    /// Names of the attached namespaces, those of an earlier agent included.
    pub fn attached_netns(&self) -> Result<Vec<String>, Error> {
        let names = Pins::names(&self.pins.links).map_err(|source| Error::Pin {
            path: self.pins.links.clone(),
            source,
        })?;
        let prefix = format!("{}-", program::SK_LOOKUP);
        let names = names.iter().filter_map(|name| name.strip_prefix(&prefix));
        Ok(names.map(str::to_owned).collect())
    }

    fn netns_path(&self, name: &str) -> PathBuf {
        self.pins
            .links
            .join(format!("{}-{name}", program::SK_LOOKUP))
    }

    /// Says that the agent listens here; the kernel forgets it when the socket is closed.
    pub fn add_listener(&self, key: ListenerKey, listener: BorrowedFd<'_>) -> Result<(), Error> {
        let number = listener.as_raw_fd().cast_unsigned();
        Ok(self.tables.listeners.insert(&key, &number)?)
    }

    /// Takes that back.
    pub fn remove_listener(&self, key: ListenerKey) -> Result<bool, Error> {
        Ok(self.tables.listeners.remove(&key)?)
    }

    /// The switches.
    pub fn settings(&self) -> Settings {
        *self.lock()
    }

    /// Sets or clears flags of [`Settings`].
    pub fn set_flags(&self, flags: u32, on: bool) -> Result<(), Error> {
        let mut settings = self.lock();
        if on {
            settings.flags |= flags;
        } else {
            settings.flags &= !flags;
        }
        Ok(self.tables.settings.insert(&0, &settings)?)
    }

    /// Replaces the switches.
    pub fn set_settings(&self, new: Settings) -> Result<(), Error> {
        let mut settings = self.lock();
        *settings = new;
        Ok(self.tables.settings.insert(&0, &settings)?)
    }

    /// Says when every worker of the data plane was last seen alive, on the monotonic clock. False, if what this agent
    /// has pinned was taken out meanwhile: then everything stays switched off.
    pub fn heartbeat(&self, now_ns: u64) -> Result<bool, Error> {
        let mut settings = self.lock();
        let found = self.tables.settings.get(&0)?.unwrap_or_default();
        // Nobody but `cleanup` sets that flag; one of another version only takes the pins away.
        let is_attached = !found.has(Settings::PASS_ALL) && self.pins.root.exists();
        if !is_attached {
            settings.flags |= Settings::PASS_ALL | Settings::ACCELERATION_OFF;
        }
        settings.heartbeat_ns = now_ns;
        self.tables.settings.insert(&0, &settings)?;
        Ok(is_attached)
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps and programs, for `mesh-agent bpf`.
    pub fn report(&self) -> Result<BpfReport, Error> {
        let programs = self.programs.iter().map(|(name, program)| {
            let id = sys::program_number(program.as_fd()).unwrap_or(0);
            let attached = self.place(name);
            let name = (*name).to_owned();
            ProgramReport { name, id, attached }
        });
        Ok(BpfReport {
            maps: self.tables.reports()?,
            programs: programs.collect(),
        })
    }

    fn place(&self, name: &str) -> String {
        match name {
            program::SK_MSG => format!("map {}", map::SOCKETS),
            program::SK_LOOKUP => match self.attached_netns() {
                Ok(names) => format!("netns {}", names.join(" ")),
                Err(_) => "netns".to_owned(),
            },
            _ => format!("cgroup {}", self.cgroup.path.display()),
        }
    }
}

/// The switches of an earlier agent, or those of a new data path: no acceleration until it has been tested.
fn first_settings(tables: &Tables) -> Result<Settings, Error> {
    let mut settings = tables.settings.get(&0)?.unwrap_or_default();
    if settings.schema == 0 {
        settings.flags = Settings::ACCELERATION_OFF;
    }
    settings.schema = SCHEMA;
    settings.flags &= !Settings::PASS_ALL;
    settings.stale_after_ns = STALE_AFTER_NS;
    settings.host_netns = Netns::current().map_err(Error::Netns)?.cookie();
    tables.settings.insert(&0, &settings)?;
    Ok(settings)
}

fn inode(netns: BorrowedFd<'_>) -> io::Result<u64> {
    let file: OwnedFd = netns.try_clone_to_owned()?;
    Ok(File::from(file).metadata()?.ino())
}

//! What the kernel holds, seen from outside the agent: the pinned map of services, and the memory of all maps.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use mesh_common::SCHEMA;
use mesh_common::names::map;
use mesh_common::service::{Service, ServiceKey};

/// The map `SERVICES`. A service's entry is replaced last: once it names new slots, they and their endpoints are there.
pub(super) struct Services(OwnedFd);

/// Attributes of `BPF_OBJ_GET`, as `bpf(2)` describes them.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Attributes of `BPF_MAP_LOOKUP_ELEM`, as `bpf(2)` describes them.
#[repr(C)]
struct Lookup {
    fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_OBJ_GET: libc::c_int = 7;

impl Services {
    /// Opens the map that is pinned below `pin_dir`.
    pub(super) fn open(pin_dir: &Path) -> io::Result<Self> {
        let path = pin_dir.join(format!("v{SCHEMA}/maps")).join(map::SERVICES);
        let path = CString::new(path.into_os_string().into_encoded_bytes())?;
        let attributes = ObjGet {
            path: address_of(path.as_ptr()),
            fd: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads the attributes and the path they point to, which both live until it returns.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_OBJ_GET,
                &raw const attributes,
                size_of::<ObjGet>(),
            )
        };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// What is behind an address and port.
    pub(super) fn get(&self, key: &ServiceKey) -> io::Result<Option<Service>> {
        let mut value = Service::default();
        let attributes = Lookup {
            fd: self.0.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: address_of(std::ptr::from_ref(key)),
            value: address_of(&raw mut value),
            flags: 0,
        };
        // SAFETY: key and value have the sizes of the map's, which `mesh_common` lays down, and live until it returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_ELEM,
                &raw const attributes,
                size_of::<Lookup>(),
            )
        };
        if result == 0 {
            return Ok(Some(value));
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::NotFound {
            Ok(None)
        } else {
            Err(error)
        }
    }
}

fn address_of<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

/// Memory of all maps that a process has open, in MiB, as the kernel accounts for it.
pub(super) fn map_mebibytes(pid: u32) -> io::Result<f64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        if let Some((map, bytes)) = number("map_id:").zip(number("memlock:")) {
            maps.insert(map, bytes);
        }
    }
    Ok(crate::outcome::to_float(maps.values().sum()) / 1_048_576.0)
}

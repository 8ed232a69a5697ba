//! The object file -> maps (pinned, or taken over) and verified programs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::programs::{Program, ProgramError};
use aya::{EbpfLoader, include_bytes_aligned};
use mesh_common::names::{map, program};

use super::offsets::Offsets;
use super::{Error, sys};

/// The kernel programs, as `build.rs` has built them; empty where it could not.
pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf"));

/// What the programs are told about the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Globals {
    /// Where fields of `struct sock` are; none: nothing is redirected.
    pub(super) offsets: Option<Offsets>,
    /// Whether `cgroup_skb` programs may ask for the network namespace.
    pub(super) has_skb_netns: bool,
}

/// Verified programs by name.
pub(super) type Programs = BTreeMap<&'static str, OwnedFd>;

/// Loads every program, over the maps pinned in `directory`; maps that are not there yet are made and pinned.
pub(super) fn load(directory: &Path, globals: &Globals) -> Result<Programs, Error> {
    if OBJECT.is_empty() {
        return Err(Error::NotBuilt);
    }
    check_pins(directory)?;
    let offsets = globals.offsets.unwrap_or_default();
    let has_offsets = u32::from(globals.offsets.is_some());
    let has_skb_netns = u32::from(globals.has_skb_netns);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("HAS_SKB_NETNS", &has_skb_netns, true)
        .override_global("HAS_OFFSETS", &has_offsets, true)
        .override_global("RMEM_ALLOC", &offsets.rmem_alloc, true)
        .override_global("RCVBUF", &offsets.rcvbuf, true)
        .override_global("WRITE_PENDING", &offsets.write_pending, true)
        .override_global("COOKIE", &offsets.cookie, true);
    for name in map::ALL {
        loader.map_pin_path(name, directory.join(name));
    }
    let mut object = loader.load(OBJECT).map_err(Box::new)?;
    let mut programs = Programs::new();
    for name in program::ALL {
        let program = object.program_mut(name).ok_or(Error::NoProgram { name })?;
        let fd = verify(program).map_err(|source| Error::Verifier {
            name,
            source: Box::new(source),
        })?;
        programs.insert(name, fd);
    }
    Ok(programs)
}

fn verify(program: &mut Program) -> Result<OwnedFd, ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }?;
    let fd = program.fd()?.as_fd().try_clone_to_owned();
    fd.map_err(ProgramError::IOError)
}

/// Refuses pinned maps that are not of the layout that the object file has.
fn check_pins(directory: &Path) -> Result<(), Error> {
    let object =
        aya_obj::Object::parse(OBJECT).map_err(|source| Error::Object(Box::new(source)))?;
    for name in map::ALL {
        let path = directory.join(name);
        if !path.exists() {
            continue;
        }
        let expected = object.maps.get(name).ok_or(Error::NoMap { name })?;
        let found = sys::open_pin(&path)
            .and_then(|map| sys::map_info(map.as_fd()))
            .map_err(|source| Error::Pin {
                path: path.clone(),
                source,
            })?;
        let is_same = found.kind == expected.map_type()
            && found.key_size == expected.key_size()
            && found.value_size == expected.value_size();
        if !is_same {
            return Err(Error::ForeignPin { path });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

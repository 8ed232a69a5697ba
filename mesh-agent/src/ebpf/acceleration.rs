//! May sockets be paired? The configuration, the kernel's version, other owners, and a test must all agree.

use std::os::fd::AsFd as _;

use mesh_common::settings::Settings;

use super::attach::Cgroup;
use super::load::Programs;
use super::probe::{self, Version};
use super::{Error, Tables, self_test, sys};
use crate::state::report::Acceleration;

/// Decides, tries, and leaves the switch in `settings` as decided.
pub(super) fn decide(
    is_wanted: bool,
    has_offsets: bool,
    (tables, settings): (&Tables, &mut Settings),
    (programs, cgroup): (&Programs, &Cgroup),
) -> Result<Acceleration, Error> {
    let obstacle = obstacle(is_wanted, has_offsets, programs, cgroup);
    let obstacle = match obstacle {
        Some(obstacle) => Some(obstacle),
        None => test(tables, settings)?,
    };
    if obstacle.is_some() {
        settings.flags |= Settings::ACCELERATION_OFF;
    } else {
        settings.flags &= !Settings::ACCELERATION_OFF;
    }
    tables.settings.insert(&0, settings)?;
    Ok(Acceleration {
        enabled: obstacle.is_none(),
        reason: obstacle.unwrap_or_default(),
    })
}

/// Why it should not even be tried.
fn obstacle(
    is_wanted: bool,
    has_offsets: bool,
    programs: &Programs,
    cgroup: &Cgroup,
) -> Option<String> {
    if !is_wanted {
        return Some("switched off by configuration".to_owned());
    }
    match Version::of_kernel() {
        Some(version) if version.can_accelerate() => {}
        Some(version) => return Some(format!("kernel {version} lacks fixes of sockmap")),
        None => return Some("the kernel's version cannot be read".to_owned()),
    }
    if !has_offsets {
        return Some("the kernel has no BTF, or other fields in struct sock".to_owned());
    }
    let ours: Vec<u32> = programs
        .values()
        .filter_map(|program| sys::program_number(program.as_fd()).ok())
        .collect();
    probe::foreign_programs(cgroup, &ours)
        .into_iter()
        .find(|foreign| foreign.forbids_acceleration)
        .map(|foreign| format!("another sock_ops program is attached: {}", foreign.program))
}

fn test(tables: &Tables, settings: &mut Settings) -> Result<Option<String>, Error> {
    settings.flags &= !Settings::ACCELERATION_OFF;
    tables.settings.insert(&0, settings)?;
    let failure = self_test::run(tables).err();
    Ok(failure.map(|failure| format!("the self-test failed: {failure}")))
}

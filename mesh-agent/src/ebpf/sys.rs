//! The few calls of bpf(2) that aya lacks or hides: pins, links, attachments, elements.

use std::ffi::{CString, c_long};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use aya::Pod;
use aya_obj::generated::bpf_cmd;

/// What is to be attached where; numbers of `enum bpf_attach_type`.
pub(super) use aya_obj::generated::bpf_attach_type as AttachType;

/// Update a map only where the key is new.
pub(super) const NO_EXIST: u64 = 1;

/// One call. `attributes` is the part of `union bpf_attr` that the command reads; what it points to outlives the call.
pub(super) fn bpf<T>(command: bpf_cmd, attributes: &mut T) -> io::Result<c_long> {
    // SAFETY: `attributes` is the part of `union bpf_attr` that the command reads, of the size given; the callers
    // below put only pointers into it that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as c_long,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn fd(result: c_long) -> io::Result<OwnedFd> {
    let number = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the command has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pinned map, program or link.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attributes = Object {
        path: path.as_ptr().addr() as u64,
        fd: 0,
        flags: 0,
    };
    fd(bpf(bpf_cmd::BPF_OBJ_GET, &mut attributes)?)
}

/// Pins a map, program or link.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attributes = Object {
        path: path.as_ptr().addr() as u64,
        fd: raw(object),
        flags: 0,
    };
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes).map(drop)
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup or a network namespace, for as long as the link lives.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        program: raw(program),
        target: raw(target),
        attach_type: attach_type as u32,
        flags: 0,
    };
    fd(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes)?)
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Replaces the program of a link, without a gap.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkUpdate {
        link: raw(link),
        program: raw(program),
        flags: 0,
        old_program: 0,
    };
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attributes).map(drop)
}

/// Detaches a link, whoever else holds it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attributes).map(drop)
}

#[repr(C)]
struct ProgramAttach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a map of sockets. The map keeps it.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    map: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<()> {
    let mut attributes = ProgramAttach {
        target: raw(map),
        program: raw(program),
        attach_type: attach_type as u32,
        flags: 0,
    };
    bpf(bpf_cmd::BPF_PROG_ATTACH, &mut attributes).map(drop)
}

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
}

/// Most programs that are looked at on one hook.
const MAX_PROGRAMS: usize = 64;

/// `BPF_F_QUERY_EFFECTIVE`: what runs here, whether attached here or above.
const EFFECTIVE: u32 = 1;

/// Numbers of the programs that run for a cgroup.
pub(super) fn attached(target: BorrowedFd<'_>, attach_type: AttachType) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; MAX_PROGRAMS];
    let mut attributes = Query {
        target: raw(target),
        attach_type: attach_type as u32,
        flags: EFFECTIVE,
        attach_flags: 0,
        programs: programs.as_mut_ptr().addr() as u64,
        count: 64,
        padding: 0,
    };
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attributes)?;
    let count = usize::try_from(attributes.count).unwrap_or(MAX_PROGRAMS);
    Ok(programs.into_iter().take(count).collect())
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Whether programs of a kind may call a helper: one that does is offered to the kernel, and thrown away.
pub(super) fn is_helper_allowed(kind: aya_obj::generated::bpf_prog_type, helper: i32) -> bool {
    // The context is in the first register already; then: return 1.
    let code = [
        u64::from(helper.cast_unsigned()) << 32 | 0x85,
        1 << 32 | 0xb7,
        0x95,
    ];
    let mut attributes = ProgramLoad {
        kind: kind as u32,
        instructions: 3,
        code: code.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes)
        .and_then(fd)
        .is_ok()
}

#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    value: u64,
}

fn info<T: Copy>(object: BorrowedFd<'_>, mut value: T) -> io::Result<T> {
    let mut attributes = Info {
        fd: raw(object),
        length: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        value: (&raw mut value).addr() as u64,
    };
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(value)
}

/// The beginning of `struct bpf_link_info`, for a link to a cgroup or a network namespace.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct LinkInfo {
    kind: u32,
    number: u32,
    /// Number of the program.
    pub(super) program: u32,
    padding: u32,
    /// Number of the cgroup, zero if it is gone; or inode of the namespace (and the type of the attachment).
    pub(super) target: u64,
    attach_type: u32,
    end: u32,
}

/// What a link connects.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link, LinkInfo::default())
}

/// The beginning of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct MapInfo {
    /// Number of `enum bpf_map_type`.
    pub(super) kind: u32,
    /// Number of the map.
    pub(super) number: u32,
    /// Bytes of a key.
    pub(super) key_size: u32,
    /// Bytes of a value.
    pub(super) value_size: u32,
    /// Most entries.
    pub(super) max_entries: u32,
    flags: u32,
}

/// What a map is.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map, MapInfo::default())
}

/// The beginning of `struct bpf_prog_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    number: u32,
}

/// Number of a program.
pub(super) fn program_number(program: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(info(program, ProgramInfo::default())?.number)
}

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element<K, V>(map: BorrowedFd<'_>, key: Option<&K>, value: *const V, flags: u64) -> Element {
    Element {
        map: raw(map),
        padding: 0,
        key: key.map_or(0, |key| std::ptr::from_ref(key).addr() as u64),
        value: value.addr() as u64,
        flags,
    }
}

/// What a missing key looks like.
fn found<T>(result: io::Result<c_long>, value: T) -> io::Result<Option<T>> {
    match result {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Looks a key up. `value` is as large as the map says (for maps per CPU: of all CPUs).
pub(super) fn lookup<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &mut [V],
) -> io::Result<Option<()>> {
    let mut attributes = element(map, Some(key), value.as_mut_ptr().cast_const(), 0);
    found(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes), ())
}

/// Writes an entry. `value` is as large as the map says (for maps per CPU: of all CPUs).
pub(super) fn update<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &[V],
    flags: u64,
) -> io::Result<()> {
    let mut attributes = element(map, Some(key), value.as_ptr(), flags);
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Removes an entry, if it is there.
pub(super) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attributes = element::<K, u8>(map, Some(key), std::ptr::null(), 0);
    let result = bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attributes);
    Ok(found(result, ())?.is_some())
}

/// The key after `key`, or the first.
pub(super) fn next_key<K: Pod>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    // SAFETY: every byte pattern is a value of `K`, as `Pod` says.
    let mut next: K = unsafe { std::mem::zeroed() };
    let mut attributes = element(map, key, &raw mut next, 0);
    let result = bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attributes);
    found(result, ()).map(|found| found.map(|()| next))
}

/// The first value of an array of `u64` that was made to be mapped (`BPF_F_MMAPABLE`).
pub(super) fn map_counter(map: BorrowedFd<'_>) -> io::Result<&'static AtomicU64> {
    // SAFETY: a mapping where the kernel likes, of a page, which every such array has.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<u64>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            map.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: begins with a page and is never unmapped; the kernel writes the value whole.
    Ok(unsafe { AtomicU64::from_ptr(address.cast()) })
}

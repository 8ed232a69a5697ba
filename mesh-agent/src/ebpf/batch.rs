//! Reads whole maps in few calls: one for each element takes a tenth of a second with 100,000 of them.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::Pod;
use aya_obj::generated::bpf_cmd;

use super::sys;

/// Bytes of keys and values that are read at a time ..
const CHUNK: usize = 256 << 10;
/// .. but so many elements at least: a bucket of a hash map is read whole.
const LEAST: usize = 64;
/// Most elements that are read at a time.
const MOST: usize = 1 << 16;
/// Where the kernel remembers its place: four bytes for a hash map, a key for others.
const PLACE: usize = 64;

/// The part of `union bpf_attr` that `BPF_MAP_LOOKUP_BATCH` (Linux 5.6) reads and writes.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Shows every element of a map, some at a time. An error before the first of them means that the kernel cannot do this
/// with a map of that type.
pub(super) fn visit<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    mut show: impl FnMut(&[K], &[V]),
) -> io::Result<()> {
    let mut length = (CHUNK / (size_of::<K>() + size_of::<V>())).clamp(LEAST, MOST);
    let (mut keys, mut values) = (zeroed::<K>(length), zeroed::<V>(length));
    let (mut place, mut next) = ([0_u8; PLACE], [0_u8; PLACE]);
    let mut is_first = true;
    loop {
        let mut attributes = Batch {
            from: if is_first {
                0
            } else {
                place.as_ptr().addr() as u64
            },
            to: next.as_mut_ptr().addr() as u64,
            keys: keys.as_mut_ptr().addr() as u64,
            values: values.as_mut_ptr().addr() as u64,
            count: u32::try_from(length).map_err(io::Error::other)?,
            map: map.as_raw_fd().cast_unsigned(),
            element_flags: 0,
            flags: 0,
        };
        let result = sys::bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes);
        let is_last = match &result {
            Ok(_) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                // A bucket has more than fits.
                Some(libc::ENOSPC) if length < MOST => {
                    length = (length * 2).min(MOST);
                    (keys, values) = (zeroed(length), zeroed(length));
                    continue;
                }
                _ => return result.map(drop),
            },
        };
        let count = usize::try_from(attributes.count).unwrap_or(0);
        show(
            keys.get(..count).unwrap_or_default(),
            values.get(..count).unwrap_or_default(),
        );
        if is_last {
            return Ok(());
        }
        place = next;
        is_first = false;
    }
}

fn zeroed<T: Pod>(length: usize) -> Vec<T> {
    // SAFETY: every byte pattern is a value of a `Pod`.
    vec![unsafe { std::mem::zeroed() }; length]
}

//! The allocator of release builds: jemalloc, told not to keep what is not used.

use std::ffi::c_char;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Read by jemalloc at its start. Pages are given back after a second, by a thread of its own, so that an agent that had
/// a peak and is idle since does not hold on to it; huge pages would hold on to more than is used.
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: Option<&'static c_char> = Some(
    // SAFETY: the text lives as long as the program, and ends with a zero.
    unsafe {
        &*c"thp:never,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:4"
            .as_ptr()
    },
);

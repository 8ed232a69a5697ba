//! The allocator of release builds: jemalloc, told not to keep what is not used.

use std::ffi::c_char;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Read by jemalloc at its start. Pages are given back after a second, by a thread of its own, so that an agent that had
/// a peak and is idle since does not hold on to it; huge pages would hold on to more than is used. A thread's cache has
/// room for what the requests under way hold, and is looked through for what it has too much of after 8 MiB: after the
/// usual 64 KiB, which are a few requests, it would be filled again at once.
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: Option<&'static c_char> = Some(
    // SAFETY: the text lives as long as the program, and ends with a zero.
    unsafe {
        &*c"thp:never,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:4,\
            tcache_gc_incr_bytes:8388608,lg_tcache_nslots_mul:3"
            .as_ptr()
    },
);

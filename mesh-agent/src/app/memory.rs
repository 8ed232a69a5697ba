//! Memory that a start has used, and that nobody needs afterwards.

/// Gives it back to the system. Loading the kernel programs reads the kernel's types, 10 MiB that the allocator would
/// keep for ever. Called before there is traffic, for it holds up whoever allocates meanwhile.
pub(super) fn release() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only asks the allocator to look through its own free lists.
    unsafe {
        libc::malloc_trim(0);
    }
}

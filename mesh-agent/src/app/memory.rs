//! Memory that a start has used, and that nobody needs afterwards.

use std::ffi::c_void;

/// Gives it back to the system. Called before there is traffic, for it holds up whoever allocates meanwhile.
pub(super) fn release() {
    release_heap();
    release_code();
}

/// Loading the kernel programs reads the kernel's types, 10 MiB that the allocator would keep for ever.
fn release_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only asks the allocator to look through its own free lists.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Most of the code that a start runs is never run again. It stays in the page cache, and what runs is mapped again as it
/// runs: some hundred faults that read nothing.
fn release_code() {
    // SAFETY: the function is called while this one waits, with headers that the loader made.
    unsafe {
        libc::dl_iterate_phdr(Some(release_code_of), std::ptr::null_mut());
    }
}

/// Called for each loaded file; the first is the program itself, and the last that is asked for.
unsafe extern "C" fn release_code_of(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut c_void,
) -> i32 {
    const LAST: i32 = 1;
    // SAFETY: the loader gives a description that lives as long as the call, and as many headers as it says.
    let (base, headers) = unsafe {
        let info = &*info;
        let count = usize::from(info.dlpi_phnum);
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, count);
        (info.dlpi_addr, headers)
    };
    // SAFETY: only asks for a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = u64::try_from(page).unwrap_or(4096);
    let is_code = |header: &&libc::Elf64_Phdr| {
        header.p_type == libc::PT_LOAD && header.p_flags == libc::PF_R | libc::PF_X
    };
    for header in headers.iter().filter(is_code) {
        let begin = (base + header.p_vaddr).next_multiple_of(page);
        let end = (base + header.p_vaddr + header.p_memsz) / page * page;
        let length = usize::try_from(end.saturating_sub(begin)).unwrap_or(0);
        // SAFETY: whole pages of the program's code, which is mapped from its file and was never written to: what is
        // dropped is read again from there. A failure leaves all as it is.
        unsafe {
            libc::madvise(begin as *mut c_void, length, libc::MADV_DONTNEED);
        }
    }
    LAST
}

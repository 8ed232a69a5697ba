//! Kernel programs of the mesh: one file per hook.
//!
//! Read `connect.rs` first, then `maps.rs`. What is decided about a connection is in `mesh-common`, so that the agent
//! can explain it with the same code; here are the hooks around it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::inline_always,
        reason = "what the compiler leaves out of line costs stack, of which there are 512 bytes"
    ),
    expect(
        clippy::cast_possible_truncation,
        reason = "contexts show ports in 32-bit fields; sizes are constants; code that could panic is refused"
    ),
    expect(
        internal_features,
        reason = "the target claims no atomic types; counters need atomic addition"
    )
)]

#[cfg(target_arch = "bpf")]
mod caller;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod egress;
#[cfg(target_arch = "bpf")]
mod getpeername;
#[cfg(target_arch = "bpf")]
mod globals;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod pair;
#[cfg(target_arch = "bpf")]
mod query;
#[cfg(target_arch = "bpf")]
mod recvmsg;
#[cfg(target_arch = "bpf")]
mod sendmsg;
#[cfg(target_arch = "bpf")]
mod sk_lookup;
#[cfg(target_arch = "bpf")]
mod sk_msg;
#[cfg(target_arch = "bpf")]
mod sock_ops;
#[cfg(target_arch = "bpf")]
mod tables;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel offers most helpers to programs under the GPL only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// On the host there is nothing to run: `cargo check --workspace` shall still work.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

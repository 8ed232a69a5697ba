//! Kernel programs; see `main.rs`. This library is empty: it lets the agent's build script depend on the crate.
#![no_std]

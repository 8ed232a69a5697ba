//! Programs that make nodes remove them also when they are interrupted.

use nix::sys::signal::{SigSet, Signal};

use crate::leftovers;

/// From now on SIGINT, SIGTERM and SIGHUP remove everything that this process has made before they end it. To be called
/// before any thread is started.
#[expect(
    clippy::exit,
    reason = "the rest of the process hangs on what is removed"
)]
pub fn clean_up_on_signals() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().expect("signals can be blocked");
    drop(std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("{signal}: cleaning up");
            leftovers::remove_own();
            std::process::exit(128 + signal as i32);
        }
    }));
}

//! Exit codes: those of sysexits(3) where one fits. `mesh-agent --help` lists them.

use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// Done.
    pub const OK: Self = Self(0);
    /// Failed.
    pub const FAILURE: Self = Self(1);
    /// An argument is wrong (mistakes in usage that clap sees end with 2).
    pub const USAGE: Self = Self(64);
    /// Settings or an object are wrong.
    pub const DATA: Self = Self(65);
    /// There is no such object.
    pub const NO_INPUT: Self = Self(66);
    /// The agent is not reachable or not ready.
    pub const UNAVAILABLE: Self = Self(69);
    /// This system does not support it.
    pub const OS: Self = Self(71);
    /// Something cannot be created.
    pub const CANNOT_CREATE: Self = Self(73);
    /// Input or output failed.
    pub const IO: Self = Self(74);
    /// It changed meanwhile: worth another try.
    pub const TRY_AGAIN: Self = Self(75);
    /// Not permitted.
    pub const PERMISSION: Self = Self(77);
    /// `exec`: the command cannot be run.
    pub const NOT_EXECUTABLE: Self = Self(126);
    /// `exec`: the command is not there.
    pub const NOT_FOUND: Self = Self(127);

    /// A code that somebody else chose.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        Self(code)
    }

    /// The code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

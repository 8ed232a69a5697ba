//! `completions`: what a shell needs to complete commands.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

/// `completions`.
#[derive(Args, Clone, Debug)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

impl Completions {
    /// The script for the shell.
    #[must_use]
    pub fn script(&self) -> String {
        let mut script = Vec::new();
        let mut command = Cli::command();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_has_a_script_with_the_commands() {
        for shell in Shell::value_variants() {
            let script = Completions { shell: *shell }.script();
            for word in ["mesh-agent", "explain", "registry", "workload"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}

//! The agent's binary: reads the command line, calls the part that is meant, ends with its exit code.

#[cfg(feature = "jemalloc")]
mod allocator;

use std::process::ExitCode;

use mesh_agent::app;
use mesh_agent::command::{self, Exit};
use mesh_agent::config::cli::{Cleanup, Cli, Command, Run};
use mesh_agent::config::{self, Settings};

fn main() -> ExitCode {
    let exit = match Cli::from_process().command {
        Command::Run(run) => start(&run),
        Command::Check(check) => finish(command::report_checks(&app::check(&check), check.output)),
        Command::Cleanup(cleanup) => clean_up(&cleanup),
        question => command::run(question),
    };
    exit.into()
}

fn start(run: &Run) -> Exit {
    let settings = match Settings::load(run) {
        Ok(settings) => settings,
        Err(error) => {
            command::complain(&error);
            return match error {
                config::Error::Read { .. } => Exit::NO_INPUT,
                config::Error::Parse { .. } | config::Error::Invalid(_) => Exit::DATA,
                config::Error::NoCgroup => Exit::OS,
            };
        }
    };
    if run.print_config {
        return finish(command::print_settings(&settings));
    }
    if run.validate_only {
        return judge(&settings);
    }
    match app::run(&settings) {
        Ok(()) => Exit::OK,
        Err(error) => fail(&error),
    }
}

/// Says whether settings that fit together find what they name, too.
fn judge(settings: &Settings) -> Exit {
    let missing = settings.missing();
    if missing.is_empty() {
        return Exit::OK;
    }
    command::complain(&config::Error::Invalid(missing));
    Exit::DATA
}

fn clean_up(cleanup: &Cleanup) -> Exit {
    match app::cleanup(&cleanup.pin_dir) {
        Ok(removed) => finish(command::report_removed(&removed)),
        Err(error) => fail(&error),
    }
}

fn finish(result: Result<Exit, command::Error>) -> Exit {
    result.unwrap_or_else(|error| {
        command::complain(&error);
        error.exit()
    })
}

fn fail(error: &anyhow::Error) -> Exit {
    command::complain(error.as_ref());
    Exit::FAILURE
}

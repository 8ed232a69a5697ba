//! The client side of the command line: asks the agent's API, shows the answer, ends with an exit code.

mod apply;
mod check;
mod client;
mod document;
mod error;
mod exec;
mod exit;
mod graph;
mod registry;
mod remark;
mod show;
mod table;
mod validate;

use std::io::{self, Write as _};

use tokio::runtime;

pub use check::{Line, report_checks};
pub use error::{Error, Problem};
pub use exec::Error as ExecError;
pub use exit::Exit;

use crate::config::Settings;
use crate::config::cli::{Command, Registry};
use crate::metrics::build;

/// Runs a command that asks the agent. `run`, `check` and `cleanup` are the agent itself, and not known here.
pub fn run(command: Command) -> Exit {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(dispatch(command))),
        Err(source) => Err(Error::Runtime(source)),
    };
    result.unwrap_or_else(|error| {
        complain(&error);
        error.exit()
    })
}

/// Writes an error with its causes to stderr.
pub fn complain(error: &(dyn std::error::Error + 'static)) {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    // With stderr gone there is nobody to tell.
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Prints the settings in force in the form of the file.
pub fn print_settings(settings: &Settings) -> Result<Exit, Error> {
    print(&settings.to_yaml()?)?;
    Ok(Exit::OK)
}

/// Says what `cleanup` has removed.
pub fn report_removed(removed: &[String]) -> Result<Exit, Error> {
    if removed.is_empty() {
        print("nothing to remove")?;
    }
    for item in removed {
        print(&format!("removed {item}"))?;
    }
    Ok(Exit::OK)
}

/// Writes a word that is no error to stderr.
fn note(text: &str) {
    // With stderr gone there is nobody to tell.
    drop(writeln!(io::stderr().lock(), "note: {text}"));
}

async fn dispatch(command: Command) -> Result<Exit, Error> {
    match command {
        Command::Status(query) => show::status(&query).await?,
        Command::Services(list) => show::services(&list).await?,
        Command::Endpoints(list) => show::endpoints(&list).await?,
        Command::Workloads(list) => show::workloads(&list).await?,
        Command::Routes(list) => show::routes(&list).await?,
        Command::Policies(list) => show::policies(&list).await?,
        Command::Connections(filter) => show::connections(&filter).await?,
        Command::Breakers(filter) => show::breakers(&filter).await?,
        Command::Coverage(filter) => show::coverage(&filter).await?,
        Command::Explain(explain) => show::explain(&explain).await?,
        Command::Bpf(query) => show::bpf(&query).await?,
        Command::LogLevel(level) => apply::log_level(&level).await?,
        Command::Drain(target) => apply::drain(&target).await?,
        Command::Apply(apply) => return apply::apply(&apply).await,
        Command::Validate(validate) => return validate::validate(&validate),
        Command::Registry(Registry::Export(export)) => return registry::export(&export).await,
        Command::Registry(Registry::Import(import)) => return registry::import(&import).await,
        Command::Delete(delete) => apply::delete(&delete).await?,
        Command::Exec(exec) => return exec::exec(exec).await,
        Command::Graph(question) => graph::graph(&question).await?,
        Command::Completions(completions) => print(&completions.script())?,
        Command::Version(version) => show::version(version.output, build::VERSION, build::RUSTC)?,
        Command::Run(_) | Command::Check(_) | Command::Cleanup(_) => return Ok(Exit::USAGE),
    }
    Ok(Exit::OK)
}

/// Writes text to stdout. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| {
            let end: &[u8] = if text.ends_with('\n') { b"" } else { b"\n" };
            out.write_all(end)
        })
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Print(error)),
        _ => Ok(()),
    }
}

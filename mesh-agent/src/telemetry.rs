//! What the agent writes about itself: its log on stderr, and the access log on stdout.

pub mod access_log;
mod format;
mod line;
pub mod throttle;

use std::io;

use tracing::Subscriber;
use tracing::level_filters::{LevelFilter, ParseLevelFilterError};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

pub use access_log::AccessLog;
pub use line::one_line;
pub use throttle::Throttle;

/// How the log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Shape of a line.
    pub format: Format,
    /// What is written: a level, or directives as in `RUST_LOG`.
    pub level: String,
}

/// Shape of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line: `time`, `level`, `target`, `msg`, then the fields.
    Json,
}

/// Why the log cannot be set up, or its level not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no filter.
    #[error(
        "cannot read log level {text:?}: use error, warn, info, debug, trace, or directives such as info,mesh_agent::proxy=debug"
    )]
    Filter {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        #[source]
        source: FilterError,
    },
    /// The process has a log already.
    #[error("the log is already set up")]
    AlreadySet,
    /// The log is gone.
    #[error("the log is no longer there")]
    Gone,
}

/// What is wrong with a filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// One word that is no level.
    #[error(transparent)]
    Level(ParseLevelFilterError),
    /// Directives that do not parse.
    #[error(transparent)]
    Directives(ParseError),
    /// A part between commas, or after an equals sign, is empty. The library takes it for one of the levels.
    #[error("a level is missing")]
    Missing,
}

/// The running log.
#[derive(Clone, Debug)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Telemetry {
    /// Changes what is written, from now on.
    pub fn set_level(&self, text: &str) -> Result<(), Error> {
        let filter = parse(text)?;
        // The handle fails only where the subscriber is dropped or poisoned; either way there is no log to change.
        self.filter.reload(filter).ok().ok_or(Error::Gone)
    }

    /// What is written now, as directives.
    #[must_use]
    pub fn level(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }
}

/// Sets up the log of the process. Once per process.
pub fn init(config: &Config) -> Result<Telemetry, Error> {
    let (subscriber, telemetry) = build(config, io::stderr)?;
    subscriber.try_init().ok().ok_or(Error::AlreadySet)?;
    Ok(telemetry)
}

/// Whether `text` is a level or a set of directives.
pub fn check_level(text: &str) -> Result<(), Error> {
    parse(text).map(drop)
}

fn build<W>(config: &Config, writer: W) -> Result<(impl Subscriber + use<W>, Telemetry), Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(&config.level)?);
    let subscriber = Registry::default().with(lines(config.format, writer).with_filter(filter));
    Ok((subscriber, Telemetry { filter: handle }))
}

fn lines<S, W>(format: Format, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer);
    match format {
        Format::Text => layer
            .with_ansi(is_terminal())
            .fmt_fields(line::OneLine::default())
            .boxed(),
        Format::Json => layer.event_format(format::Json).boxed(),
    }
}

fn is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}

fn parse(text: &str) -> Result<EnvFilter, Error> {
    let text = text.trim();
    let refused = |source: FilterError| Error::Filter {
        text: text.to_owned(),
        source,
    };
    let mut parts = text.split(',').map(str::trim);
    if parts.any(|part| part.is_empty() || part.ends_with('=')) {
        return Err(refused(FilterError::Missing));
    }
    // A bare level speaks of the agent; the libraries below it write about every frame.
    let directives = if text.contains(',') || text.contains('=') {
        text.to_owned()
    } else {
        // Checked here, because a directive that is no level is taken for the name of a module.
        let level: LevelFilter = text
            .parse()
            .map_err(|error| refused(FilterError::Level(error)))?;
        format!("{level},h2=warn,hyper=warn,hyper_util=warn")
    };
    EnvFilter::builder()
        .parse(directives)
        .map_err(|error| refused(FilterError::Directives(error)))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn json_lines_have_the_agreed_keys() {
        let out = write(Format::Json, |_| {
            tracing::info!(service = "shop/web", count = 2, "pro\"grammed");
        });
        let line: serde_json::Value = serde_json::from_str(out.trim()).expect("it is JSON");
        assert_eq!(line["level"], "info");
        assert_eq!(line["msg"], "pro\"grammed");
        assert_eq!(line["service"], "shop/web");
        assert_eq!(line["count"], 2);
        assert_eq!(line["target"], "mesh_agent::telemetry::tests");
        assert!(line["time"].as_str().expect("a text").ends_with('Z'));
    }

    #[test]
    fn text_of_others_makes_no_line_of_its_own() {
        let out = write(Format::Text, |_| {
            let kind = "x\u{1b}[31m\n2026-01-01 INFO forged";
            tracing::info!(%kind, "object\nrefused");
        });
        assert_eq!(out.lines().count(), 1, "{out}");
        assert!(out.contains("object\\nrefused kind=x"), "{out}");
    }

    #[test]
    fn the_level_changes_while_it_runs() {
        let out = write(Format::Text, |telemetry| {
            tracing::debug!("before");
            telemetry.set_level("debug").expect("it is a level");
            tracing::debug!("after");
            assert!(telemetry.level().contains("debug"), "{}", telemetry.level());
        });
        assert!(!out.contains("before") && out.contains("after"), "{out}");
    }

    #[test]
    fn a_level_that_does_not_exist_is_refused_and_changes_nothing() {
        let out = write(Format::Text, |telemetry| {
            let error = telemetry.set_level("info,mesh_agent=loud").unwrap_err();
            assert!(error.to_string().contains("loud"), "{error}");
            tracing::info!("still");
        });
        assert!(out.contains("still"), "{out}");
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for text in [
            "inof",
            "",
            " ",
            "info,",
            "nonsense=",
            "info,mesh_agent= ,h2=warn",
        ] {
            assert!(check_level(text).is_err(), "{text:?}");
        }
        assert!(check_level("warn").is_ok());
        assert!(check_level("warn,mesh_agent::proxy=debug").is_ok());
    }

    fn write(format: Format, work: impl FnOnce(&Telemetry)) -> String {
        let config = Config {
            format,
            level: "info".to_owned(),
        };
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let buffer = Arc::clone(&buffer);
            move || Buffer(Arc::clone(&buffer))
        };
        let (subscriber, telemetry) = build(&config, writer).expect("the level is right");
        tracing::subscriber::with_default(subscriber, || work(&telemetry));
        let bytes = buffer.lock().expect("nobody panicked").clone();
        String::from_utf8(bytes).expect("it is text")
    }

    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

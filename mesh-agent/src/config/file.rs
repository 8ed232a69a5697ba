//! The file: YAML, one document, every key known. What is wrong is named with file, line and key.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{Error, Options};
use crate::state::document;

/// Reads the file; `-` is stdin.
pub(super) fn read(path: &Path) -> Result<Options, Error> {
    let text = read_text(path, MAX_BYTES).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

/// Reads a text of at most `limit` bytes; `-` is stdin. A longer one is refused: half of it may say something else.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path)?)
    };
    let mut text = String::new();
    let length = input.take(limit + 1).read_to_string(&mut text)?;
    if length as u64 > limit {
        let message = format!("it has more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<Options, Error> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let message = document::fault(&error);
        let message = match key_at(text, line) {
            Some(key) if !message.contains(key) => format!("{key}: {message}"),
            _ => message,
        };
        Error::Parse {
            path: path.to_owned(),
            line,
            message,
        }
    })
}

/// The key that a line sets.
fn key_at(text: &str, line: u64) -> Option<&str> {
    let index = usize::try_from(line).ok()?.checked_sub(1)?;
    let (key, _) = text.lines().nth(index)?.split_once(':')?;
    let key = key.trim();
    (!key.is_empty()).then_some(key)
}

/// Far more than every key needs.
const MAX_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_read() {
        let text = "\
# a comment
pinDir: /sys/fs/bpf/other
api: 127.0.0.1:1
accessLog: off
acceleration: opt-in
drainTimeout: 1m
virtualRange: [10.0.0.0/24, 'fd00::/64']
workers: 3
proxy:
  connectTimeout: 250ms
  maxConnections: 10
";
        let options = parse(Path::new("mesh.yaml"), text).expect("it is right");
        assert_eq!(options.workers, Some(3));
        assert_eq!(options.virtual_range.map(|ranges| ranges.len()), Some(2));
        assert_eq!(options.proxy.max_connections, Some(10));
        assert_eq!(options.log_level, None);
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        std::fs::write(&path, "workers: 3\n").unwrap();
        assert_eq!(read_text(&path, 11).unwrap(), "workers: 3\n");
        let refused = read_text(&path, 10).unwrap_err();
        assert_eq!(refused.to_string(), "it has more than 10 bytes");
    }

    #[test]
    fn an_empty_file_says_nothing() {
        for text in ["", "# only a comment\n", "---\n"] {
            assert_eq!(
                parse(Path::new("mesh.yaml"), text).expect("it is right"),
                Options::default()
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_key() {
        check(
            "pinDir: /a\npinDri: /b\n",
            "mesh.yaml:2: unknown field `pinDri`",
        );
        check("workers: 1\nworkers: 2\n", "mesh.yaml:2: ");
        check("\nworkers: many\n", "mesh.yaml:2: workers: invalid u16");
        check(
            "accessLog: perhaps\n",
            "mesh.yaml:1: accessLog: unknown variant `perhaps`",
        );
        check(
            "proxy:\n  connectTimeot: 3s\n",
            "mesh.yaml:2: unknown field `connectTimeot`",
        );
        check(
            "drainTimeout: 30\n",
            "mesh.yaml:1: drainTimeout: \"30\" is no length of time",
        );
        check(
            "virtualRange: [10.0.0.0/40]\n",
            "mesh.yaml:1: virtualRange: ",
        );
        check("reset: true\n", "mesh.yaml:1: unknown field `reset`");
    }

    fn check(text: &str, wanted: &str) {
        let error = parse(Path::new("mesh.yaml"), text).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}

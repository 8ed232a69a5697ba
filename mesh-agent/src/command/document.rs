//! Files with objects, as commands read them.

use std::path::Path;

use super::error::Error;
use crate::config::read_text;
use crate::state::document;

pub(super) use crate::state::document::{Document, Subject};

/// Reads a file; `-` is stdin. What is no YAML is named with file and line.
pub(super) fn read(path: &Path) -> Result<Vec<Document>, Error> {
    let text = read_text(path, document::MAX_BYTES).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

/// The objects of a text that is in `file`.
pub(super) fn parse(file: &Path, text: &str) -> Result<Vec<Document>, Error> {
    document::parse(text).map_err(|error| Error::Object {
        place: format!("{}:{}", file.display(), error.line),
        message: error.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_yaml_is_named_with_file_and_line() {
        let error = parse(Path::new("mesh.yaml"), "kind: Service\nmetadata: [\n");
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("mesh.yaml:"), "{error}");
    }
}

//! Files with objects, as commands read them.

use std::path::Path;

use super::error::Error;
use crate::config::read_text;
use crate::state::document;

pub(super) use crate::state::document::{Document, ParseError, Subject};

/// What can be read of one document.
pub(super) type Read = Result<Document, ParseError>;

/// Reads a file; `-` is stdin.
pub(super) fn read(path: &Path) -> Result<Vec<Read>, Error> {
    let text = read_text(path, document::MAX_BYTES).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(document::parse(&text))
}

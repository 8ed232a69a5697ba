//! Whether a write means the version that is there, and whether it changes anything.

use crate::state::object::{ABSENT, Metadata};
use crate::state::resource::Resource;
use crate::state::{Origin, Refusal};

/// Whether the version in a request is one of another registry: of the API server that gave the object this uid.
pub(super) fn is_foreign(current: Option<&Metadata>, wanted: &Metadata) -> bool {
    !wanted.uid.is_empty() && current.is_none_or(|it| it.uid != wanted.uid)
}

/// `wanted` is empty where the writer does not care, `*` where the object only has to exist, or `0` where it must not.
pub(super) fn expect_version(current: Option<&Metadata>, wanted: &str) -> Result<(), Refusal> {
    let current = current.map(|it| it.resource_version.as_str());
    let is_right = match wanted {
        "" => true,
        "*" => current.is_some(),
        ABSENT => current.is_none(),
        version => current == Some(version),
    };
    if is_right {
        return Ok(());
    }
    Err(Refusal::Conflict {
        current: current.unwrap_or("none").to_owned(),
        wanted: wanted.to_owned(),
    })
}

/// Whether nothing that people write differs.
pub(super) fn has_same_intent<R: Resource>(old: &R, new: &R) -> bool {
    old.has_same_spec(new)
        && old.metadata().labels == new.metadata().labels
        && old.metadata().annotations == new.metadata().annotations
}

pub(super) fn is_of(metadata: &Metadata, origin: &Origin) -> bool {
    metadata.source == origin.source && metadata.origin == origin.place
}

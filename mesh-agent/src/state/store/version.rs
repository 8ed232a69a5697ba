//! Versions of an object: which one a request means, what a new one takes over from the one before.

use uuid::Uuid;

use crate::state::Refusal;
use crate::state::object::Metadata;
use crate::state::resource::Resource;
use crate::state::source::Origin;

/// Whether the version in a request is one of another registry: of the API server that gave the object this uid.
pub(super) fn is_foreign(current: Option<&Metadata>, wanted: &Metadata) -> bool {
    !wanted.uid.is_empty() && current.is_none_or(|it| it.uid != wanted.uid)
}

/// `wanted` is empty where the writer does not care, or `*` where the object only has to exist.
pub(super) fn expect_version(current: Option<&Metadata>, wanted: &str) -> Result<(), Refusal> {
    let current = current.map(|it| it.resource_version.as_str());
    if wanted.is_empty() || current == Some(wanted) || (wanted == "*" && current.is_some()) {
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

/// Takes over who an object is, where every node says the same.
pub(super) fn adopt_stamp(metadata: &mut Metadata, shared: &Metadata) {
    if !shared.uid.is_empty() {
        metadata.uid.clone_from(&shared.uid);
    }
    if shared.generation > 0 {
        metadata.generation = shared.generation;
    }
    if !shared.creation_timestamp.is_empty() {
        metadata
            .creation_timestamp
            .clone_from(&shared.creation_timestamp);
        metadata.created_at.clone_from(&shared.creation_timestamp);
    }
}

pub(super) fn is_of(metadata: &Metadata, origin: &Origin) -> bool {
    metadata.source == origin.source && metadata.origin == origin.place
}

/// Takes over what the agent writes from the version before, or makes it.
pub(super) fn stamp<R: Resource>(new: &mut R, old: Option<&R>, now: &str) {
    let (generation, uid, made) = if let Some(old) = old {
        new.keep_status(old);
        let metadata = old.metadata();
        let changed = u64::from(!new.has_same_spec(old));
        (
            metadata.generation + changed,
            metadata.uid.clone(),
            metadata.creation_timestamp.clone(),
        )
    } else {
        new.reset_status();
        (1, Uuid::new_v4().to_string(), now.to_owned())
    };
    let metadata = new.metadata_mut();
    metadata.generation = generation;
    metadata.uid = uid;
    metadata.created_at.clone_from(&made);
    metadata.creation_timestamp = made;
    now.clone_into(&mut metadata.updated_at);
}

//! What a new version takes over from the one before, or from a shared registry.

use uuid::Uuid;

use crate::state::object::Metadata;
use crate::state::resource::Resource;

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

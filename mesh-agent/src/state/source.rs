//! Where objects come from, and who wins where two sources have the same object.
//!
//! An object belongs to one source. A source that comes before it in the order takes it over; one that comes after it is
//! refused, and the object says so in the condition `Conflicted` for as long as that source has it too. The order, the
//! strongest first: `files`, `etcd`, `api`.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::draft::Draft;
use super::object::{Condition, ConditionStatus, Kind, ObjectKey};
use super::resource::{Resource, with_kind};
use super::{Refusal, Snapshot};

/// A source of objects. A later one of this list comes before the earlier ones.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Somebody who asked the API of this agent.
    #[default]
    Api,
    /// The registry that several nodes share.
    Etcd,
    /// A folder of files on this node.
    Files,
}

impl Source {
    /// Every source, the weakest first.
    pub const ALL: [Self; 3] = [Self::Api, Self::Etcd, Self::Files];

    /// The word in `metadata.source`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Etcd => "etcd",
            Self::Files => "files",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A source, and the place in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The source.
    pub source: Source,
    /// What holds the object there, for example a file in the folder. Empty where there is nothing to say.
    pub place: String,
}

impl From<Source> for Origin {
    fn from(source: Source) -> Self {
        Self {
            source,
            place: String::new(),
        }
    }
}

/// Whose an object is.
pub(super) fn owner(snapshot: &Snapshot, kind: Kind, key: &ObjectKey) -> Option<Source> {
    with_kind!(kind, R => R::all(snapshot).get(key).map(|it| it.metadata().source))
}

/// Refuses a write of `source` where the object belongs to one that comes before it. All but the API are remembered:
/// they go on to have the object.
pub(super) fn expect_right(
    draft: &mut Draft,
    source: Source,
    kind: Kind,
    key: &ObjectKey,
) -> Result<(), Refusal> {
    let Some(owner) = owner(&draft.next, kind, key).filter(|owner| source < *owner) else {
        return Ok(());
    };
    if source != Source::Api {
        let message = format!("{source} has it too, and {owner} comes before it");
        with_kind!(kind, R => mark::<R>(draft, key, ALSO_ELSEWHERE, message));
    }
    Err(Refusal::Owned {
        kind,
        key: key.clone(),
        owner,
    })
}

/// Says on an object that a source with less right does not have it any more.
pub(super) fn forget_rival(draft: &mut Draft, kind: Kind, key: &ObjectKey) {
    with_kind!(kind, R => draft.remove_condition::<R>(key, CONFLICTED));
}

/// What an object says of its sources once `new` has written it over a version of `old`: nothing, or that it was taken over.
pub(super) fn judge<R: Resource>(object: &mut R, old: Option<Source>, new: Source) {
    if let Some(old) = old.filter(|old| *old != new) {
        let message = format!("{old} had it before, and {new} comes before it");
        let condition = conflicted(object, TAKEN_OVER, message);
        super::draft::upsert(object.conditions_mut(), condition);
    } else {
        let is_over = |it: &Condition| it.kind == CONFLICTED && it.reason == TAKEN_OVER;
        object.conditions_mut().retain(|it| !is_over(it));
    }
}

/// Makes all objects of a source those of the API. Says how many.
pub(super) fn release(draft: &mut Draft, source: Source) -> usize {
    let owned = |snapshot: &Snapshot| -> Vec<(Kind, ObjectKey)> {
        let all = snapshot.manifests();
        let owned = all.filter(|it| it.metadata().source == source);
        owned.map(|it| (it.kind(), it.key())).collect()
    };
    let owned = owned(&draft.next);
    for (kind, key) in &owned {
        with_kind!(*kind, R => give_to_api::<R>(draft, key));
    }
    owned.len()
}

fn give_to_api<R: Resource>(draft: &mut Draft, key: &ObjectKey) {
    let Some(mut object) = R::all(&draft.next).get(key).map(|it| R::clone(it)) else {
        return;
    };
    object.metadata_mut().source = Source::Api;
    object.metadata_mut().origin = String::new();
    object.conditions_mut().retain(|it| it.kind != CONFLICTED);
    draft.write(object);
}

fn mark<R: Resource>(draft: &mut Draft, key: &ObjectKey, reason: &str, message: String) {
    let Some(object) = R::all(&draft.next).get(key) else {
        return;
    };
    let condition = conflicted(&**object, reason, message);
    draft.set_condition::<R>(key, condition);
}

fn conflicted<R: Resource>(object: &R, reason: &str, message: String) -> Condition {
    Condition {
        kind: CONFLICTED.to_owned(),
        status: ConditionStatus::True,
        reason: reason.to_owned(),
        message,
        observed_generation: object.metadata().generation,
    }
}

/// The condition of an object that more than one source has. The only one that tells of something wrong by being true.
pub const CONFLICTED: &str = "Conflicted";
/// A source with less right had it before.
const TAKEN_OVER: &str = "TakenOver";
/// A source with less right has it now, and is refused.
const ALSO_ELSEWHERE: &str = "AlsoElsewhere";

//! Rules for `ReferenceGrant`.

use super::{bound, name, route};
use crate::state::Refusal;
use crate::state::reference_grant::ReferenceGrantSpec;

/// Most entries of `from`, and of `to` (Gateway API).
const MAX_ENTRIES: usize = 16;

pub(super) fn check(spec: &ReferenceGrantSpec) -> Result<(), Refusal> {
    for (field, is_empty) in [
        ("spec.from", spec.from.is_empty()),
        ("spec.to", spec.to.is_empty()),
    ] {
        if is_empty {
            return Err(Refusal::invalid(field, "at least one entry"));
        }
    }
    bound::at_most("spec.from", &spec.from, MAX_ENTRIES)?;
    bound::at_most("spec.to", &spec.to, MAX_ENTRIES)?;
    for (index, from) in spec.from.iter().enumerate() {
        let field = format!("spec.from[{index}]");
        route::group_and_kind(&field, &from.group, &from.kind)?;
        name::label(&format!("{field}.namespace"), &from.namespace)?;
    }
    for (index, to) in spec.to.iter().enumerate() {
        let field = format!("spec.to[{index}]");
        route::group_and_kind(&field, &to.group, &to.kind)?;
        if let Some(name) = &to.name {
            name::subdomain(&format!("{field}.name"), name)?;
        }
    }
    Ok(())
}

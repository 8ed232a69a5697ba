//! What the routes of the Gateway API have in common: parents, backends, names of rules, sessions.

use super::{bound, http, name, not_zero};
use crate::state::Refusal;
use crate::state::reference::Backend;
use crate::state::route::{CookieLifetime, ParentReference, SessionPersistence, SessionType};

/// Most parents of a route.
const MAX_PARENTS: usize = 32;
/// Most rules of a route.
pub(super) const MAX_RULES: usize = 16;
/// Most matches of a rule.
pub(super) const MAX_MATCHES: usize = 64;
/// Most matches of all rules of a route.
const MAX_ALL_MATCHES: usize = 128;
/// Most backends of a rule.
pub(super) const MAX_BACKENDS: usize = 16;
/// Largest weight of a backend.
const MAX_WEIGHT: u32 = 1_000_000;
/// Longest name of a session (GEP-1619).
const MAX_SESSION_NAME: usize = 128;

/// The parents: valid references, none of them twice.
pub(super) fn parents(parents: &[ParentReference]) -> Result<(), Refusal> {
    let field = "spec.parentRefs";
    if parents.is_empty() {
        let message = "a route is attached to something: {group: \"\", kind: Service, name: ..}";
        return Err(Refusal::invalid(field, message));
    }
    bound::at_most(field, parents, MAX_PARENTS)?;
    for (index, parent) in parents.iter().enumerate() {
        let field = format!("{field}[{index}]");
        group_and_kind(&field, &parent.group, &parent.kind)?;
        name::subdomain(&format!("{field}.name"), &parent.name)?;
        if let Some(namespace) = &parent.namespace {
            name::label(&format!("{field}.namespace"), namespace)?;
        }
        if let Some(section) = &parent.section_name {
            name::subdomain(&format!("{field}.sectionName"), section)?;
        }
        if let Some(port) = parent.port {
            not_zero(&format!("{field}.port"), port)?;
        }
        let others = parents.iter().take(index);
        if others.into_iter().any(|it| overlaps(it, parent)) {
            return Err(Refusal::invalid(
                field,
                "the same parent as before; give each another port or sectionName",
            ));
        }
    }
    Ok(())
}

/// Whether two references name one parent and are not told apart by port or section.
fn overlaps(left: &ParentReference, right: &ParentReference) -> bool {
    let is_same = left.group == right.group
        && left.kind == right.kind
        && left.namespace == right.namespace
        && left.name == right.name;
    let port_differs = left.port.is_some() && right.port.is_some() && left.port != right.port;
    let section_differs = left.section_name.is_some()
        && right.section_name.is_some()
        && left.section_name != right.section_name;
    is_same && !port_differs && !section_differs
}

/// A reference to who takes requests or connections.
pub(super) fn backend(field: &str, backend: &Backend<'_>) -> Result<(), Refusal> {
    group_and_kind(field, backend.group, backend.kind)?;
    name::subdomain(&format!("{field}.name"), backend.name)?;
    if let Some(namespace) = backend.namespace {
        name::label(&format!("{field}.namespace"), namespace)?;
    }
    match backend.port {
        Some(port) => not_zero(&format!("{field}.port"), port),
        // What is sent nowhere needs no port; the status of the route says so.
        None if !backend.is_service() => Ok(()),
        None => Err(Refusal::invalid(
            format!("{field}.port"),
            "is needed, also where the Service has one port only",
        )),
    }
}

/// The weight of a backend.
pub(super) fn weight(field: &str, weight: u32) -> Result<(), Refusal> {
    bound::within(&format!("{field}.weight"), weight, 0..=MAX_WEIGHT)
}

pub(super) fn group_and_kind(field: &str, group: &str, kind: &str) -> Result<(), Refusal> {
    if !group.is_empty() {
        name::subdomain(&format!("{field}.group"), group)?;
    }
    let is_kind = kind.len() <= 63
        && kind.starts_with(|first: char| first.is_ascii_alphabetic())
        && kind.ends_with(|last: char| last.is_ascii_alphanumeric())
        && kind
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || it == b'-');
    if is_kind {
        return Ok(());
    }
    Err(Refusal::invalid(
        format!("{field}.kind"),
        "a kind: 1 to 63 of letters, digits and -, with a letter first",
    ))
}

/// The number of rules, and their names: each only once.
pub(super) fn rules<'a, I>(names: I) -> Result<(), Refusal>
where
    I: Iterator<Item = Option<&'a String>> + Clone,
{
    let count = names.clone().count();
    if count > MAX_RULES {
        return Err(Refusal::invalid(
            "spec.rules",
            format!("at most {MAX_RULES} rules, not {count}"),
        ));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, name) in names.enumerate() {
        let Some(name) = name else { continue };
        let field = format!("spec.rules[{index}].name");
        name::subdomain(&field, name)?;
        if !seen.insert(name) {
            return Err(Refusal::invalid(field, "each name only once"));
        }
    }
    Ok(())
}

/// The number of matches, per rule and of all.
pub(super) fn matches(counts: impl Iterator<Item = usize>) -> Result<(), Refusal> {
    let mut all = 0;
    for (index, count) in counts.enumerate() {
        let field = format!("spec.rules[{index}].matches");
        all += count;
        if count > MAX_MATCHES || all > MAX_ALL_MATCHES {
            return Err(Refusal::invalid(
                field,
                format!("at most {MAX_MATCHES} matches per rule and {MAX_ALL_MATCHES} per route"),
            ));
        }
    }
    Ok(())
}

/// GEP-1619.
pub(super) fn session(field: &str, session: &SessionPersistence) -> Result<(), Refusal> {
    if let Some(name) = &session.session_name {
        let field = format!("{field}.sessionName");
        bound::length(&field, name, 1..=MAX_SESSION_NAME)?;
        http::token(&field, name)?;
    }
    if session.kind == SessionType::Header && session.cookie_config.is_some() {
        return Err(Refusal::invalid(
            format!("{field}.cookieConfig"),
            "only for type Cookie",
        ));
    }
    let is_permanent = session
        .cookie_config
        .is_some_and(|it| it.lifetime_type == CookieLifetime::Permanent);
    if is_permanent && session.absolute_timeout.is_none() {
        return Err(Refusal::invalid(
            format!("{field}.absoluteTimeout"),
            "needed for a Permanent cookie",
        ));
    }
    for (name, timeout) in [
        ("absoluteTimeout", session.absolute_timeout),
        ("idleTimeout", session.idle_timeout),
    ] {
        if timeout.is_some_and(crate::state::duration::Duration::is_zero) {
            return Err(Refusal::invalid(
                format!("{field}.{name}"),
                "longer than no time",
            ));
        }
    }
    Ok(())
}

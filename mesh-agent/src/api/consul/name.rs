//! Ids and names of Consul are free text; those of objects are DNS names. What fits stays as it is.

use twox_hash::XxHash3_64;

use crate::state::object::Metadata;

/// The annotation with the id or name as it was given, where it is not that of the object.
pub(super) const GIVEN: &str = "consul.mesh.dev/name";
/// The annotation with the address as it was given, where that is not the one of the endpoint.
pub(super) const GIVEN_ADDRESS: &str = "consul.mesh.dev/address";
/// The annotation with the address of a node that was registered from outside.
pub(super) const NODE_ADDRESS: &str = "consul.mesh.dev/node-address";
/// The annotation with tagged addresses, as JSON.
pub(super) const TAGGED_ADDRESSES: &str = "consul.mesh.dev/tagged-addresses";

/// Longest part of a name that is kept where it does not fit whole.
const KEPT: usize = 40;

/// The name of the object for an id or name; the same for the same, and others for others.
pub(super) fn of(given: &str) -> String {
    if is_subdomain(given) {
        return given.to_owned();
    }
    let mut kept: String = given
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => c,
            _ => '-',
        })
        .take(KEPT)
        .collect();
    kept = kept.trim_matches('-').to_owned();
    if kept.is_empty() {
        kept.push('x');
    }
    format!("{kept}-{:016x}", XxHash3_64::oneshot(given.as_bytes()))
}

/// The name of the object for an id on a node, where another node has an object of the id's own name.
pub(super) fn apart(given: &str, node: &str) -> String {
    of(&format!("{given}@{node}"))
}

/// What was given for an object.
pub(super) fn given(metadata: &Metadata) -> &str {
    metadata.annotations.get(GIVEN).unwrap_or(&metadata.name)
}

/// The annotation that brings back what was given, where that is needed.
pub(super) fn annotation(given: &str) -> Option<(&'static str, String)> {
    (!is_subdomain(given)).then(|| (GIVEN, given.to_owned()))
}

fn is_subdomain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_fits_stays_and_the_rest_is_told_apart() {
        assert_eq!(of("shop-1"), "shop-1");
        assert!(annotation("shop-1").is_none());
        let all = [
            "Shop-1",
            "shop_1",
            "SHOP 1",
            "-",
            "",
            "a..b",
            "日本",
            "日本語",
        ];
        let names: BTreeSet<String> = all.iter().map(|it| of(it)).collect();
        assert_eq!(names.len(), all.len());
        assert!(names.iter().all(|it| is_subdomain(it)), "{names:?}");
        assert!(of("Shop_1").starts_with("shop-1-"));
        let long = "x".repeat(300);
        assert!(of(&long).len() <= 63);
        assert_ne!(apart("shop-1", "a"), apart("shop-1", "b"));
    }

    #[test]
    fn what_was_given_comes_back() {
        let mut metadata = Metadata {
            name: of("Shop_1"),
            ..Metadata::default()
        };
        metadata
            .annotations
            .extend(annotation("Shop_1").map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(given(&metadata), "Shop_1");
    }
}

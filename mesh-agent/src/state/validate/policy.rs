//! Rules of authorization policies, and how large they are once compiled.

use mesh_common::policy::MAX_RULES;

use super::name;
use crate::state::Refusal;
use crate::state::object::Kind;
use crate::state::policy::{AuthorizationPolicySpec, Destination, Rule, Source};

/// Checks a policy by itself: its target may come later.
pub(super) fn check(spec: &AuthorizationPolicySpec) -> Result<(), Refusal> {
    if !matches!(spec.target.kind, Kind::Service | Kind::Workload) {
        return Err(Refusal::invalid(
            "spec.target.kind",
            "a target is a Service or a Workload",
        ));
    }
    name::subdomain("spec.target.name", &spec.target.name)?;
    for (index, rule) in spec.rules.iter().enumerate() {
        check_rule(&format!("spec.rules[{index}]"), rule)?;
    }
    let rules = expansion(spec);
    if rules > MAX_RULES {
        return Err(Refusal::invalid(
            "spec.rules",
            format!(
                "{rules} combinations of namespace, service account, network and port; at most {MAX_RULES}"
            ),
        ));
    }
    Ok(())
}

fn check_rule(field: &str, rule: &Rule) -> Result<(), Refusal> {
    for (index, source) in rule.from.iter().enumerate() {
        let field = format!("{field}.from[{index}]");
        for (index, namespace) in source.namespaces.iter().enumerate() {
            name::label(&format!("{field}.namespaces[{index}]"), namespace)?;
        }
        for (index, account) in source.service_accounts.iter().enumerate() {
            name::label(&format!("{field}.serviceAccounts[{index}]"), account)?;
        }
    }
    for (index, destination) in rule.to.iter().enumerate() {
        for (port_index, port) in destination.ports.iter().enumerate() {
            super::not_zero(&format!("{field}.to[{index}].ports[{port_index}]"), *port)?;
        }
    }
    Ok(())
}

/// How many kernel rules a policy becomes: one per combination of namespace, service account, network and port.
#[must_use]
pub fn expansion(spec: &AuthorizationPolicySpec) -> usize {
    // An Allow policy without rules is one rule that admits nobody.
    spec.rules
        .iter()
        .map(|rule| sum(&rule.from, callers).saturating_mul(sum(&rule.to, ports)))
        .fold(0, usize::saturating_add)
        .max(1)
}

/// An absent list stands for one rule that matches all.
fn sum<T>(items: &[T], size: fn(&T) -> usize) -> usize {
    items.iter().map(size).fold(0, usize::saturating_add).max(1)
}

fn callers(source: &Source) -> usize {
    [
        source.namespaces.len(),
        source.service_accounts.len(),
        source.cidrs.len(),
    ]
    .into_iter()
    .fold(1, |product, length| product.saturating_mul(length.max(1)))
}

fn ports(destination: &Destination) -> usize {
    destination.ports.len().max(1)
}

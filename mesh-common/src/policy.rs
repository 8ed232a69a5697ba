//! L4 policy: values of `POLICY`, and the algebra that decides.
//!
//! The key is an address, port and protocol that a policy protects: a service's virtual address and port, each of its
//! endpoints' address and port, or with port and protocol 0 a workload's address. Deny beats Allow; where any Allow rule
//! stands, what none of them admits is refused; audited rules only count.

use crate::address::{Address, SocketAddress};
use crate::workload::Caller;

/// Most rules of one key; more are refused when the policy is written.
pub const MAX_RULES: usize = 64;

/// Key of `POLICY`: what is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PolicyKey {
    /// The address.
    pub address: Address,
    /// The port, in host byte order; zero for a whole workload.
    pub port: u16,
    /// IP protocol number; zero for a whole workload.
    pub protocol: u8,
    /// Always zero.
    pub padding: u8,
}

const _: () = assert!(size_of::<PolicyKey>() == 16 + 2 + 1 + 1);

impl PolicyKey {
    /// Key of the policy of one port.
    #[must_use]
    #[inline(always)]
    pub const fn port(at: &SocketAddress, protocol: u8) -> Self {
        Self {
            address: at.address,
            port: at.port,
            protocol,
            padding: 0,
        }
    }

    /// Key of the policy of a whole workload.
    #[must_use]
    #[inline(always)]
    pub const fn workload(address: Address) -> Self {
        Self {
            address,
            port: 0,
            protocol: 0,
            padding: 0,
        }
    }
}

/// The rules of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Policy {
    /// How many of `rules` are in use.
    pub count: u32,
    /// The rules, in any order.
    pub rules: [Rule; MAX_RULES],
}

const _: () = assert!(size_of::<Policy>() == 4 + 36 * MAX_RULES);

/// One combination of caller and port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Rule {
    /// The flags below.
    pub flags: u8,
    /// Bits of `network` that count: 0 to 128, so 96 more than an IPv4 prefix.
    pub prefix: u8,
    /// Port that was dialled, or zero for all.
    pub port: u16,
    /// Whose callers.
    pub caller: Caller,
    /// Number of the policy, for the log.
    pub policy: u32,
    /// Network of the caller's address.
    pub network: Address,
    /// Always zero.
    pub padding: u32,
}

const _: () = assert!(size_of::<Rule>() == 1 + 1 + 2 + 8 + 4 + 16 + 4);

impl Rule {
    /// Refuses what it matches; without it the rule admits.
    pub const DENY: u8 = 1;
    /// Only counts.
    pub const AUDIT: u8 = 1 << 1;
    /// Matches nothing: an Allow policy without rules.
    pub const NOBODY: u8 = 1 << 2;
    /// Matches IPv6 callers only: without it a short IPv6 prefix, such as `::/0`, covers the v4-mapped addresses too.
    pub const IPV6: u8 = 1 << 3;

    /// Whether the rule speaks of this connection.
    #[must_use]
    #[inline(always)]
    pub const fn matches(&self, caller: &Caller, source: &Address, port: u16) -> bool {
        self.flags & Self::NOBODY == 0
            && (self.port == 0 || self.port == port)
            && (self.caller.namespace == 0 || self.caller.namespace == caller.namespace)
            && (self.caller.service_account == 0
                || self.caller.service_account == caller.service_account)
            && source.is_in(&self.network, self.prefix)
            && (self.flags & Self::IPV6 == 0 || !source.is_v4())
    }
}

/// What a policy says of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Authorization {
    /// Refused.
    pub is_denied: bool,
    /// Not refused, but would be if audited rules were enforced.
    pub is_audited: bool,
}

/// An Allow rule stands.
const HAS_ALLOW: u32 = 1;
/// An Allow rule matches.
const ALLOWED: u32 = 1 << 1;
/// A Deny rule matches.
const DENIED: u32 = 1 << 2;

impl Policy {
    /// No rules: everybody may.
    pub const EMPTY: Self = Self {
        count: 0,
        rules: [Rule {
            flags: 0,
            prefix: 0,
            port: 0,
            caller: Caller {
                namespace: 0,
                service_account: 0,
            },
            policy: 0,
            network: Address::UNSPECIFIED,
            padding: 0,
        }; MAX_RULES],
    };

    /// Decides about a caller that dials `port`.
    ///
    /// The kernel programs take the same steps in a loop of their own: their verifier would follow every path through
    /// this one.
    #[must_use]
    pub fn authorize(&self, caller: &Caller, source: &Address, port: u16) -> Authorization {
        let mut seen = Seen::default();
        for rule in self.rules.iter().take(self.count as usize) {
            seen.note(rule, caller, source, port);
        }
        seen.authorization()
    }
}

/// What the rules looked at so far have said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Seen {
    /// By rules that are enforced.
    enforced: u32,
    /// By all rules.
    audited: u32,
}

impl Seen {
    /// Nothing yet: `nothing` is zero. The kernel programs read it from a map, because a verifier that knows the bits
    /// would follow each combination of them on its own.
    #[must_use]
    #[inline(always)]
    pub const fn begin(nothing: u32) -> Self {
        Self {
            enforced: nothing,
            audited: nothing,
        }
    }

    /// Looks at one rule.
    #[inline(always)]
    pub const fn note(&mut self, rule: &Rule, caller: &Caller, source: &Address, port: u16) {
        let said = match (
            rule.flags & Rule::DENY != 0,
            rule.matches(caller, source, port),
        ) {
            (true, true) => DENIED,
            (true, false) => 0,
            (false, true) => HAS_ALLOW | ALLOWED,
            (false, false) => HAS_ALLOW,
        };
        self.audited |= said;
        if rule.flags & Rule::AUDIT == 0 {
            self.enforced |= said;
        }
    }

    /// What follows, when every rule has been looked at.
    #[must_use]
    #[inline(always)]
    pub const fn authorization(&self) -> Authorization {
        let is_denied = refuses(self.enforced);
        Authorization {
            is_denied,
            is_audited: !is_denied && refuses(self.audited),
        }
    }
}

#[inline(always)]
const fn refuses(seen: u32) -> bool {
    seen & DENIED != 0 || seen & (HAS_ALLOW | ALLOWED) == HAS_ALLOW
}

#[cfg(test)]
#[cfg(feature = "user")]
mod tests {
    use std::net::IpAddr;

    use super::{Authorization, Policy, Rule};
    use crate::address::Address;
    use crate::workload::Caller;

    const CALLER: Caller = Caller {
        namespace: 1,
        service_account: 2,
    };

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("a literal address").into()
    }

    fn policy(rules: &[Rule]) -> Policy {
        let mut policy = Policy::EMPTY;
        policy.count = u32::try_from(rules.len()).expect("few rules");
        policy.rules[..rules.len()].copy_from_slice(rules);
        policy
    }

    fn ask(rules: &[Rule]) -> Authorization {
        policy(rules).authorize(&CALLER, &address("10.1.2.3"), 80)
    }

    fn of_namespace(namespace: u32, flags: u8) -> Rule {
        Rule {
            flags,
            caller: Caller {
                namespace,
                service_account: 0,
            },
            ..Rule::default()
        }
    }

    #[test]
    fn no_rules_admit_everybody() {
        assert!(!ask(&[]).is_denied);
    }

    #[test]
    fn an_allow_rule_refuses_whom_it_does_not_name() {
        assert!(!ask(&[of_namespace(1, 0)]).is_denied);
        assert!(ask(&[of_namespace(9, 0)]).is_denied);
        assert!(!ask(&[of_namespace(9, 0), of_namespace(1, 0)]).is_denied);
        assert!(
            ask(&[Rule {
                flags: Rule::NOBODY,
                ..Rule::default()
            }])
            .is_denied
        );
    }

    #[test]
    fn deny_beats_allow_in_any_order() {
        let allow = of_namespace(1, 0);
        let deny = of_namespace(1, Rule::DENY);
        assert!(ask(&[allow, deny]).is_denied && ask(&[deny, allow]).is_denied);
        assert!(!ask(&[allow, of_namespace(9, Rule::DENY)]).is_denied);
    }

    #[test]
    fn audited_rules_only_count() {
        let audited = ask(&[of_namespace(1, Rule::DENY | Rule::AUDIT)]);
        assert_eq!((audited.is_denied, audited.is_audited), (false, true));
        let audited = ask(&[of_namespace(9, Rule::AUDIT)]);
        assert_eq!((audited.is_denied, audited.is_audited), (false, true));
        let both = ask(&[
            of_namespace(1, Rule::DENY),
            of_namespace(1, Rule::DENY | Rule::AUDIT),
        ]);
        assert_eq!((both.is_denied, both.is_audited), (true, false));
    }

    #[test]
    fn a_rule_is_held_to_port_account_and_network() {
        let matching = Rule {
            port: 80,
            caller: CALLER,
            prefix: 96 + 8,
            network: address("10.0.0.0"),
            ..Rule::default()
        };
        assert!(!ask(&[matching]).is_denied);
        for other in [
            Rule {
                port: 81,
                ..matching
            },
            Rule {
                network: address("11.0.0.0"),
                ..matching
            },
            Rule {
                caller: Caller {
                    service_account: 3,
                    ..CALLER
                },
                ..matching
            },
        ] {
            assert!(ask(&[other]).is_denied);
        }
    }

    #[test]
    fn an_unknown_caller_matches_only_rules_that_ask_for_nobody_in_particular() {
        let unknown = Caller::default();
        let source = address("192.0.2.1");
        assert!(
            policy(&[of_namespace(1, 0)])
                .authorize(&unknown, &source, 80)
                .is_denied
        );
        assert!(
            !policy(&[Rule::default()])
                .authorize(&unknown, &source, 80)
                .is_denied
        );
    }
}

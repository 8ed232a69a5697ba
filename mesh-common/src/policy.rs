//! L4 policy: values of `POLICY`, and the algebra that decides.
//!
//! The key is an address and port that a policy protects: a service's virtual address and port, each of its
//! endpoints' address and port, or with port 0 a workload's address. Deny beats Allow; where any Allow rule
//! stands, what none of them admits is refused; audited rules only count.

use crate::address::{Address, SocketAddress};
use crate::workload::Caller;

/// Most rules of one key; more are refused when the policy is written.
pub const MAX_RULES: usize = 64;

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
const HAS_ALLOW: u8 = 1;
/// An Allow rule matches.
const ALLOWED: u8 = 1 << 1;
/// A Deny rule matches.
const DENIED: u8 = 1 << 2;

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
    #[must_use]
    #[inline(always)]
    pub fn authorize(&self, caller: &Caller, source: &Address, port: u16) -> Authorization {
        let mut enforced = 0;
        let mut audited = 0;
        let mut index = 0;
        while index < MAX_RULES {
            if index as u32 >= self.count {
                break;
            }
            let rule = &self.rules[index];
            let seen = Self::weigh(rule, rule.matches(caller, source, port));
            audited |= seen;
            if rule.flags & Rule::AUDIT == 0 {
                enforced |= seen;
            }
            index += 1;
        }
        let is_denied = refuses(enforced);
        Authorization {
            is_denied,
            is_audited: !is_denied && refuses(audited),
        }
    }

    #[inline(always)]
    const fn weigh(rule: &Rule, matches: bool) -> u8 {
        match (rule.flags & Rule::DENY != 0, matches) {
            (true, true) => DENIED,
            (true, false) => 0,
            (false, true) => HAS_ALLOW | ALLOWED,
            (false, false) => HAS_ALLOW,
        }
    }
}

#[inline(always)]
const fn refuses(seen: u8) -> bool {
    seen & DENIED != 0 || seen & (HAS_ALLOW | ALLOWED) == HAS_ALLOW
}

/// Key of the policy of a whole workload.
#[must_use]
#[inline(always)]
pub const fn workload_key(address: Address) -> SocketAddress {
    SocketAddress::new(address, 0)
}

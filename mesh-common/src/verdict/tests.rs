//! The verdict over maps in memory.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use super::{Decision, Facts, Liveness, Reason, Role, Tables, Verdict, decide};
use crate::address::{Address, SocketAddress};
use crate::balance::Balancing;
use crate::egress::EgressKey;
use crate::endpoint::{Endpoint, State};
use crate::policy::{Authorization, Policy, PolicyKey, Rule};
use crate::service::{Mode, Service, ServiceKey, SlotKey, TCP, UDP};
use crate::workload::{Caller, Workload};

/// Maps in memory.
struct Maps {
    services: BTreeMap<ServiceKey, Service>,
    slots: BTreeMap<SlotKey, u32>,
    endpoints: BTreeMap<u32, Endpoint>,
    identities: HashMap<Address, Workload>,
    policies: HashMap<PolicyKey, Policy>,
    open: BTreeMap<u32, u64>,
    cursors: RefCell<BTreeMap<u32, u32>>,
    seed: Cell<u32>,
    liveness: Liveness,
    exits: Vec<EgressKey>,
}

impl Tables for Maps {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        self.slots.get(key).copied()
    }
    fn endpoint(&self, id: u32) -> Option<Endpoint> {
        self.endpoints.get(&id).copied()
    }
    fn identity(&self, address: &Address) -> Option<Workload> {
        self.identities.get(address).copied()
    }
    fn authorize(
        &self,
        key: &PolicyKey,
        caller: &Caller,
        source: &Address,
        port: u16,
    ) -> Authorization {
        let policy = self.policies.get(key);
        policy.map_or_else(Authorization::default, |policy| {
            policy.authorize(caller, source, port)
        })
    }
    fn open_connections(&self, endpoint: u32) -> u64 {
        self.open.get(&endpoint).copied().unwrap_or(0)
    }
    fn next(&self, port_id: u32) -> u32 {
        let mut cursors = self.cursors.borrow_mut();
        let cursor = cursors.entry(port_id).or_default();
        *cursor += 1;
        *cursor - 1
    }
    fn random(&self) -> u32 {
        // Xorshift: the same numbers in every run.
        let mut seed = self.seed.get();
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        self.seed.set(seed);
        seed
    }
    fn may_leave(&self, workload: u32, destination: &SocketAddress) -> bool {
        let questions = EgressKey::questions(workload, destination);
        questions.iter().any(|question| {
            self.exits.iter().any(|exit| {
                let (asked, known) = (question.exit, exit.exit);
                let prefix = u8::try_from(exit.bits - 64).unwrap();
                (asked.workload, asked.port) == (known.workload, known.port)
                    && asked.address.is_in(&known.address, prefix)
            })
        })
    }
    fn liveness(&self, _netns: u64, _family: u32, _role: Role) -> Liveness {
        self.liveness
    }
}

fn socket_address(text: &str) -> SocketAddress {
    text.parse::<SocketAddr>().unwrap().into()
}

fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

const VIRTUAL: &str = "240.240.0.10:80";
const PORT_ID: u32 = 50;

/// A service at [`VIRTUAL`] with IPv4 endpoints 1, 2, .. at 10.0.0.1:8080, 10.0.0.2:8080, .. in slots in this order.
fn maps(mode: Mode, balancing: Balancing, slots: &[u32]) -> Maps {
    let mut maps = Maps {
        services: BTreeMap::new(),
        slots: BTreeMap::new(),
        endpoints: BTreeMap::new(),
        identities: HashMap::new(),
        policies: HashMap::new(),
        open: BTreeMap::new(),
        cursors: RefCell::default(),
        seed: Cell::new(0x9e37_79b9),
        liveness: Liveness::Alive,
        exits: Vec::new(),
    };
    let service = Service {
        id: 5,
        port_id: PORT_ID,
        generation: 3,
        slots_v4: u32::try_from(slots.len()).unwrap(),
        slots_v6: 0,
        mode: mode as u8,
        balancing: balancing as u8,
        padding: 0,
    };
    for protocol in [TCP, UDP] {
        let key = ServiceKey::new(&socket_address(VIRTUAL), protocol);
        maps.services.insert(key, service);
    }
    for (slot, id) in (0..).zip(slots) {
        let key = SlotKey {
            port_id: PORT_ID,
            generation: 3,
            family: 4,
            slot,
        };
        maps.slots.insert(key, *id);
        let endpoint = Endpoint {
            address: address(&format!("10.0.0.{id}")),
            port: 8080,
            state: State::Ready as u8,
            padding: 0,
            weight: 1,
            port_id: PORT_ID,
        };
        maps.endpoints.insert(*id, endpoint);
    }
    maps
}

fn facts(destination: &str, flags: u32) -> Facts<'static> {
    let workload = Workload {
        id: 7,
        flags,
        caller: Caller {
            namespace: 1,
            service_account: 2,
        },
        ipv4: address("10.1.0.1"),
        ipv6: address("fd00::1"),
    };
    Facts {
        workload: Box::leak(Box::new(workload)),
        destination: socket_address(destination),
        bound: Address::UNSPECIFIED,
        netns: 4711,
        protocol: TCP,
        is_answer: false,
        endpoint: 0,
        is_bound_to_device: false,
    }
}

fn datagram(destination: &str, endpoint: u32) -> Facts<'static> {
    Facts {
        protocol: UDP,
        endpoint,
        ..facts(destination, 0)
    }
}

fn port_key(text: &str, protocol: u8) -> PolicyKey {
    PolicyKey::port(&socket_address(text), protocol)
}

fn verdict(maps: &Maps, facts: &Facts<'_>) -> (Verdict, Reason) {
    let decision = decide(maps, facts);
    (decision.verdict, decision.reason)
}

fn deny_all() -> Policy {
    let mut policy = Policy::EMPTY;
    policy.count = 1;
    policy.rules[0].flags = Rule::DENY;
    policy
}

#[test]
fn what_the_mesh_has_no_part_in_passes() {
    let maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
    let mut other = facts(VIRTUAL, 0);
    other.protocol = 0;
    assert_eq!(verdict(&maps, &other), (Verdict::Pass, Reason::Protocol));
    for destination in ["127.0.0.1:80", "[::1]:80", "0.0.0.0:80"] {
        let decided = verdict(&maps, &facts(destination, Workload::EGRESS_LOCKED));
        assert_eq!(decided, (Verdict::Pass, Reason::Loopback));
    }
    let decided = verdict(&maps, &facts("192.0.2.1:443", 0));
    assert_eq!(decided, (Verdict::Pass, Reason::NoService));
}

#[test]
fn a_locked_workload_reaches_services_only() {
    let maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
    let locked = Workload::EGRESS_LOCKED;
    let decided = verdict(&maps, &facts("192.0.2.1:443", locked));
    assert_eq!(decided, (Verdict::Deny, Reason::EgressLocked));
    let decided = verdict(&maps, &facts(VIRTUAL, locked));
    assert_eq!(decided, (Verdict::Direct, Reason::Service));
    let mut sent = facts("192.0.2.1:443", locked);
    sent.protocol = UDP;
    let decided = verdict(&maps, &sent);
    assert_eq!(decided, (Verdict::Deny, Reason::EgressLocked));
    sent.is_answer = true;
    assert_eq!(verdict(&maps, &sent), (Verdict::Pass, Reason::NoService));
}

#[test]
fn a_locked_workload_reaches_what_is_let_out() {
    let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
    let id = facts(VIRTUAL, 0).workload.id;
    maps.exits = vec![
        EgressKey::network(id, 443, address("192.0.2.0"), 96 + 24),
        EgressKey::network(id, 0, address("2001:db8::"), 32),
        EgressKey::network(0, 8080, address("10.0.0.9"), 128),
        EgressKey::network(id + 1, 0, Address::UNSPECIFIED, 0),
        EgressKey::network(id, 6, Address::UNSPECIFIED, 0),
        EgressKey::network(id, 4, address("0.0.0.0"), 96),
    ];
    let check = |destination: &str, may: bool| {
        let expected = if may {
            (Verdict::Pass, Reason::NoService)
        } else {
            (Verdict::Deny, Reason::EgressLocked)
        };
        let dialled = facts(destination, Workload::EGRESS_LOCKED);
        assert_eq!(verdict(&maps, &dialled), expected, "{destination}");
        let sent = Facts {
            protocol: UDP,
            ..dialled
        };
        assert_eq!(verdict(&maps, &sent), expected, "{destination}");
    };
    check("192.0.2.7:443", true);
    check("192.0.2.7:80", false);
    check("192.0.3.7:443", false);
    check("[2001:db8:9::1]:22", true);
    check("[2001:db9::1]:22", false);
    check("10.0.0.9:8080", true);
    check("10.0.0.9:8081", false);
    // All of one family is nothing of the other.
    for (port, is_v6) in [(4, false), (6, true)] {
        for address in [
            "[::1:0:0:0]",
            "[::fffe:c000:201]",
            "[2001:db9::1]",
            "[ffff::1]",
        ] {
            check(&format!("{address}:{port}"), is_v6);
        }
        for address in ["0.0.0.1", "192.0.3.7", "255.255.255.255"] {
            check(&format!("{address}:{port}"), !is_v6);
        }
    }
}

#[test]
fn a_direct_service_needs_no_agent() {
    let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
    maps.liveness = Liveness::Absent;
    let decision = decide(&maps, &facts(VIRTUAL, Workload::FAIL_CLOSED));
    let expected = Decision {
        verdict: Verdict::Direct,
        reason: Reason::Service,
        service: 5,
        endpoint: 1,
        destination: socket_address("10.0.0.1:8080"),
        ..Decision::default()
    };
    assert_eq!(decision, expected);
}

#[test]
fn the_fail_mode_decides_where_the_agent_is_needed_and_away() {
    let closed = Workload::FAIL_CLOSED;
    for (liveness, reason) in [
        (Liveness::Absent, Reason::AgentAbsent),
        (Liveness::Hung, Reason::AgentHung),
    ] {
        let mut maps = maps(Mode::Proxy, Balancing::RoundRobin, &[1]);
        assert_eq!(
            verdict(&maps, &facts(VIRTUAL, closed)),
            (Verdict::Proxy, Reason::Service)
        );
        maps.liveness = liveness;
        assert_eq!(
            verdict(&maps, &facts(VIRTUAL, 0)),
            (Verdict::Direct, reason)
        );
        assert_eq!(
            verdict(&maps, &facts(VIRTUAL, closed)),
            (Verdict::Deny, reason)
        );
        let outside = "192.0.2.1:443";
        assert_eq!(
            verdict(&maps, &facts(outside, 0)),
            (Verdict::Pass, Reason::NoService)
        );
        assert_eq!(
            verdict(&maps, &facts(outside, closed)),
            (Verdict::Deny, reason)
        );
    }
}

#[test]
fn a_socket_bound_to_a_device_goes_past_the_agent() {
    let maps = maps(Mode::Proxy, Balancing::RoundRobin, &[1]);
    let mut facts = facts(VIRTUAL, 0);
    facts.is_bound_to_device = true;
    assert_eq!(
        verdict(&maps, &facts),
        (Verdict::Direct, Reason::BoundDevice)
    );
}

#[test]
fn a_service_without_endpoints_refuses() {
    let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1, 2]);
    for endpoint in maps.endpoints.values_mut() {
        endpoint.state = State::Draining as u8;
    }
    let decided = verdict(&maps, &facts(VIRTUAL, 0));
    assert_eq!(decided, (Verdict::Deny, Reason::NoEndpoint));
}

#[test]
fn policy_is_asked_of_service_endpoint_and_workload() {
    for key in [
        port_key(VIRTUAL, TCP),
        port_key("10.0.0.1:8080", TCP),
        PolicyKey::workload(address("10.0.0.1")),
    ] {
        let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
        maps.policies.insert(key, deny_all());
        let decided = verdict(&maps, &facts(VIRTUAL, 0));
        assert_eq!(decided, (Verdict::Deny, Reason::Policy), "{key:?}");
        let decided = verdict(&maps, &datagram(VIRTUAL, 0));
        let is_denied = key.protocol == 0;
        assert_eq!(decided.0 == Verdict::Deny, is_denied, "{key:?}");
    }
}

#[test]
fn datagrams_keep_their_endpoint_while_it_serves_them() {
    let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1, 2]);
    let chosen = |maps: &Maps| decide(maps, &datagram(VIRTUAL, 2)).endpoint;
    assert_eq!([chosen(&maps), chosen(&maps)], [2, 2]);
    let endpoint = |maps: &mut Maps, change: fn(&mut Endpoint)| {
        change(maps.endpoints.get_mut(&2).unwrap());
    };
    endpoint(&mut maps, |it| it.state = State::Draining as u8);
    assert_eq!(chosen(&maps), 2);
    endpoint(&mut maps, |it| it.state = State::Failed as u8);
    assert_eq!(chosen(&maps), 1);
    endpoint(&mut maps, |it| {
        it.state = State::Ready as u8;
        it.port_id += 1;
    });
    let moved = [chosen(&maps), chosen(&maps)];
    assert!(moved.contains(&1), "it serves another service: {moved:?}");
    maps.endpoints.remove(&2);
    assert_eq!(chosen(&maps), 1);
}

#[test]
fn the_proxy_gets_no_datagrams() {
    let mut maps = maps(Mode::Proxy, Balancing::RoundRobin, &[1]);
    maps.liveness = Liveness::Absent;
    let decided = verdict(&maps, &datagram(VIRTUAL, 0));
    assert_eq!(decided, (Verdict::Direct, Reason::Service));
    let decided = verdict(&maps, &datagram("192.0.2.1:123", 0));
    assert_eq!(decided, (Verdict::Pass, Reason::NoService));
}

#[test]
fn questions_for_names_go_to_the_agent_or_where_they_were_sent() {
    let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
    let asks = |maps: &Maps, to: &str, protocol: u8, flags: u32| {
        let facts = Facts {
            protocol,
            ..facts(to, flags)
        };
        verdict(maps, &facts)
    };
    let resolvers = ["10.0.0.53:53", "127.0.0.53:53", "[::1]:53", "0.0.0.0:53"];
    for resolver in resolvers {
        for protocol in [TCP, UDP] {
            let decided = asks(&maps, resolver, protocol, Workload::DNS);
            assert_eq!(decided, (Verdict::Proxy, Reason::Dns), "{resolver}");
            let decided = asks(&maps, resolver, protocol, 0);
            assert_eq!(decided.0, Verdict::Pass, "{resolver}");
        }
    }
    let decided = asks(&maps, "127.0.0.1:54", UDP, Workload::DNS);
    assert_eq!(decided, (Verdict::Pass, Reason::Loopback));
    maps.policies
        .insert(port_key("10.0.0.53:53", UDP), deny_all());
    let decided = asks(&maps, "10.0.0.53:53", UDP, Workload::DNS);
    assert_eq!(decided, (Verdict::Deny, Reason::Policy));
    for (liveness, reason) in [
        (Liveness::Absent, Reason::AgentAbsent),
        (Liveness::Hung, Reason::AgentHung),
    ] {
        maps.liveness = liveness;
        for resolver in ["127.0.0.53:53", "10.0.0.54:53"] {
            for flags in [Workload::DNS, Workload::DNS | Workload::FAIL_CLOSED] {
                for protocol in [TCP, UDP] {
                    let decided = asks(&maps, resolver, protocol, flags);
                    assert_eq!(decided, (Verdict::Pass, reason), "{resolver} {protocol}");
                }
            }
        }
    }
}

#[test]
fn who_has_sent_datagrams_may_be_answered() {
    let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
    let caller = "192.0.2.1:5000";
    let whole = PolicyKey::workload(address("192.0.2.1"));
    maps.policies.insert(whole, deny_all());
    let mut answer = datagram(caller, 0);
    assert_eq!(verdict(&maps, &answer), (Verdict::Deny, Reason::Policy));
    answer.is_answer = true;
    assert_eq!(verdict(&maps, &answer), (Verdict::Pass, Reason::NoService));
}

#[test]
fn an_audited_policy_lets_pass_and_says_so() {
    let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
    let mut policy = deny_all();
    policy.rules[0].flags |= Rule::AUDIT;
    maps.policies.insert(port_key(VIRTUAL, TCP), policy);
    let decision = decide(&maps, &facts(VIRTUAL, 0));
    assert_eq!(decision.verdict, Verdict::Direct);
    assert!(decision.is_audited);
}

#[test]
fn both_ends_must_ask_for_acceleration() {
    let accelerated = Workload {
        flags: Workload::ACCELERATED,
        ..Workload::default()
    };
    for (caller, callee, expected) in [(0, 1, false), (1, 0, false), (1, 1, true)] {
        let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
        if callee == 1 {
            maps.identities.insert(address("10.0.0.1"), accelerated);
        }
        let facts = facts(VIRTUAL, caller * Workload::ACCELERATED);
        assert_eq!(decide(&maps, &facts).is_accelerated, expected);
    }
    let maps = maps(Mode::Proxy, Balancing::RoundRobin, &[1]);
    assert!(decide(&maps, &facts(VIRTUAL, Workload::ACCELERATED)).is_accelerated);
}

fn shares(maps: &Maps, connections: u32) -> BTreeMap<u32, u32> {
    let mut shares = BTreeMap::new();
    for _ in 0..connections {
        let decision = decide(maps, &facts(VIRTUAL, 0));
        *shares.entry(decision.endpoint).or_default() += 1;
    }
    shares
}

#[test]
fn round_robin_follows_the_slots() {
    let maps = maps(Mode::Direct, Balancing::RoundRobin, &[1, 2, 1, 3, 1, 2]);
    assert_eq!(
        shares(&maps, 600),
        BTreeMap::from([(1, 300), (2, 200), (3, 100)])
    );
}

#[test]
fn random_comes_near_the_weights() {
    let maps = maps(Mode::Direct, Balancing::Random, &[1, 1, 1, 2]);
    let shares = shares(&maps, 4000);
    assert!((2800..3200).contains(&shares[&1]), "{shares:?}");
}

#[test]
fn least_request_avoids_the_loaded_endpoint() {
    let mut maps = maps(Mode::Direct, Balancing::LeastRequest, &[1, 2, 3]);
    maps.open = BTreeMap::from([(1, 100)]);
    let shares = shares(&maps, 900);
    // It is taken only where both random slots are its own: one time in nine.
    assert!((60..150).contains(&shares[&1]), "{shares:?}");
}

#[test]
fn an_endpoint_that_takes_nothing_new_gets_nothing() {
    for balancing in [
        Balancing::RoundRobin,
        Balancing::Random,
        Balancing::LeastRequest,
    ] {
        let mut maps = maps(Mode::Direct, balancing, &[1, 2, 3]);
        maps.endpoints.get_mut(&2).unwrap().state = State::Failed as u8;
        let shares = shares(&maps, 300);
        assert!(
            !shares.contains_key(&2) && !shares.contains_key(&0),
            "{shares:?}"
        );
    }
}

#[test]
fn a_socket_without_endpoints_of_its_family_goes_to_the_agent() {
    let mut maps = maps(Mode::Direct, Balancing::RoundRobin, &[1]);
    let service = *maps.services.values().next().unwrap();
    let key = ServiceKey::new(&socket_address("[fd00::80]:80"), TCP);
    maps.services.insert(key, service);
    let decided = verdict(&maps, &facts("[fd00::80]:80", 0));
    assert_eq!(decided, (Verdict::Proxy, Reason::Service));
}

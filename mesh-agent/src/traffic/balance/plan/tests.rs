//! What each algorithm and each rule does with many requests.

use super::super::hash::{Dice, identity, of};
use super::super::latency::Latency;
use super::super::slow_start::FULL;
use super::*;
use crate::state::traffic_policy::balancing::Algorithm::{
    self, LeastRequest, Maglev, PeakEwma, Random, RingHash, RoundRobin, WeightedRoundRobin,
};

const ALL: [Algorithm; 7] = [
    RoundRobin,
    WeightedRoundRobin,
    Random,
    LeastRequest,
    PeakEwma,
    RingHash,
    Maglev,
];

/// Facts that a test sets.
#[derive(Default)]
struct Facts {
    weights: Vec<u32>,
    out: Vec<u32>,
    tried: Vec<u32>,
    active: Vec<u32>,
    grown: Vec<u32>,
    latencies: Vec<Latency>,
}

impl Facts {
    fn new(weights: &[u32]) -> Self {
        Self {
            weights: weights.to_vec(),
            active: vec![0; weights.len()],
            grown: vec![FULL; weights.len()],
            latencies: weights.iter().map(|_| Latency::default()).collect(),
            ..Self::default()
        }
    }
}

fn at(index: u32) -> usize {
    usize::try_from(index).unwrap()
}

impl Fleet for Facts {
    fn is_open(&self, index: u32) -> bool {
        !self.tried.contains(&index)
    }

    fn is_well(&self, index: u32) -> bool {
        !self.out.contains(&index)
    }

    fn weight(&self, index: u32) -> u32 {
        self.weights[at(index)]
    }

    fn active(&self, index: u32) -> u32 {
        self.active[at(index)]
    }

    fn latency(&self, index: u32) -> Option<&Latency> {
        self.latencies.get(at(index))
    }

    fn grown(&self, index: u32) -> u32 {
        self.grown[at(index)]
    }
}

const fn rules(algorithm: Algorithm) -> Rules {
    Rules {
        algorithm,
        panic_percent: 0,
        min_well_percent: 71,
    }
}

/// Members with weights, all at one distance.
fn members(weights: &[u32]) -> Vec<Member> {
    let addresses = (1..=u8::MAX).map(|last| ([10, 0, 0, last], 80).into());
    (0..)
        .zip(weights)
        .zip(addresses)
        .map(|((index, weight), address)| Member {
            index,
            weight: *weight,
            identity: identity(address),
            distance: 0,
        })
        .collect()
}

fn plan(rules: Rules, members: Vec<Member>) -> Plan {
    Plan::new(rules, &[(1, members)], None)
}

fn ask(number: u64) -> Ask {
    Ask {
        hash: None,
        dice: Dice::new(number),
        now_ns: 1 + number * 1_000_000,
    }
}

/// How often each endpoint is picked of `requests`, in percent.
fn percents(plan: &Plan, facts: &Facts, requests: u64) -> Vec<f64> {
    let mut counts = vec![0_u32; facts.weights.len()];
    for number in 0..requests {
        if let Some(picked) = plan.pick(&mut ask(number), facts, Trust::Well) {
            counts[at(picked.index)] += 1;
        }
    }
    let all = f64::from(u32::try_from(requests).unwrap());
    counts
        .iter()
        .map(|it| f64::from(*it) * 100.0 / all)
        .collect()
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64], slack: f64) {
    let is_close = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(found, expected)| (found - expected).abs() <= slack);
    assert!(is_close, "{found:?} is not {expected:?}");
}

#[test]
fn round_robin_is_exact_and_smooth() {
    let weights = [5, 1, 2];
    let facts = Facts::new(&weights);
    for algorithm in [RoundRobin, WeightedRoundRobin] {
        let plan = plan(rules(algorithm), members(&weights));
        assert_close(&percents(&plan, &facts, 800), &[62.5, 12.5, 25.0], 0.0);
        let eight: Vec<u32> = (0..8)
            .map(|number| {
                plan.pick(&mut ask(number), &facts, Trust::Well)
                    .unwrap()
                    .index
            })
            .collect();
        assert_eq!(eight, [0, 2, 0, 0, 1, 0, 2, 0]);
    }
}

#[test]
fn round_robin_shares_what_one_that_is_out_leaves() {
    let mut facts = Facts::new(&[1; 4]);
    let plan = plan(rules(RoundRobin), members(&[1; 4]));
    facts.out = vec![1];
    assert_close(&percents(&plan, &facts, 300), &[33.3, 0.0, 33.3, 33.3], 0.4);
}

#[test]
fn every_algorithm_goes_by_weight_when_nobody_has_anything_to_do() {
    let weights = [5, 0, 3, 2];
    let facts = Facts::new(&weights);
    for algorithm in ALL {
        let plan = plan(rules(algorithm), members(&weights));
        // Four standard deviations of a binomial share of one half are 1.4 percent.
        assert_close(
            &percents(&plan, &facts, 20_000),
            &[50.0, 0.0, 30.0, 20.0],
            1.4,
        );
    }
}

#[test]
fn every_algorithm_shares_what_one_that_is_out_leaves() {
    let mut facts = Facts::new(&[1; 5]);
    facts.out = vec![3];
    for algorithm in ALL {
        let plan = plan(rules(algorithm), members(&[1; 5]));
        let expected = [25.0, 25.0, 25.0, 0.0, 25.0];
        assert_close(&percents(&plan, &facts, 20_000), &expected, 1.3);
    }
}

#[test]
fn nobody_is_asked_twice_or_made_up() {
    let mut facts = Facts::new(&[1, 1, 1]);
    for algorithm in ALL {
        let plan = plan(rules(algorithm), members(&[1, 1, 1]));
        for (tried, out, well, anyone) in [
            (vec![0, 1], vec![], true, true),
            (vec![0, 1], vec![2], false, true),
            (vec![0, 1, 2], vec![], false, false),
        ] {
            facts.tried = tried;
            facts.out = out;
            for hash in [None, Some(of(b"key"))] {
                let ask = Ask { hash, ..ask(3) };
                let pick = |trust| {
                    plan.pick(&mut ask.clone(), &facts, trust)
                        .map(|it| it.index)
                };
                assert_eq!(pick(Trust::Well), well.then_some(2));
                assert_eq!(pick(Trust::Anyone), anyone.then_some(2));
            }
        }
        let nobody = Plan::new(rules(algorithm), &[(1, Vec::new())], None);
        assert_eq!(nobody.pick(&mut ask(1), &facts, Trust::Anyone), None);
    }
}

#[test]
fn least_request_evens_out_requests_per_weight() {
    let weights = [3, 1, 1];
    let mut facts = Facts::new(&weights);
    let plan = plan(rules(LeastRequest), members(&weights));
    // Nothing ever ends.
    for number in 0..500 {
        let picked = plan.pick(&mut ask(number), &facts, Trust::Well).unwrap();
        facts.active[at(picked.index)] += 1;
    }
    let active = facts.active.iter().map(|it| f64::from(*it) / 5.0);
    assert_close(&active.collect::<Vec<_>>(), &[60.0, 20.0, 20.0], 1.5);
}

#[test]
fn least_request_never_takes_the_busiest_of_three() {
    let mut facts = Facts::new(&[1; 3]);
    facts.active = vec![10, 2, 1];
    let plan = plan(rules(LeastRequest), members(&[1; 3]));
    let shares = percents(&plan, &facts, 10_000);
    // Of two drawn the less busy one: the busiest only if drawn nine times in a row.
    assert_close(&shares, &[0.1, 33.3, 66.7], 2.0);
}

#[test]
fn peak_ewma_leaves_a_slow_endpoint_alone_and_comes_back() {
    let mut facts = Facts::new(&[1; 3]);
    let plan = plan(rules(PeakEwma), members(&[1; 3]));
    let latency = |index: u32| if index == 1 { 200_000_000 } else { 10_000_000 };
    let mut counts = [0_u32; 3];
    for number in 0..10_000 {
        let mut ask = ask(number);
        let picked = plan.pick(&mut ask, &facts, Trust::Well).unwrap().index;
        facts.latencies[at(picked)].observe(latency(picked), ask.now_ns);
        counts[at(picked)] += 1;
    }
    assert!((1..200).contains(&counts[1]), "{counts:?}");
    assert!(counts[0] > 4_000 && counts[2] > 4_000, "{counts:?}");
    facts.active = vec![30, 0, 30];
    let shares = percents(&plan, &facts, 1_000);
    assert!(shares[1] > 50.0, "{shares:?}");
}

#[test]
fn equal_hashes_meet_equal_endpoints_on_every_node() {
    let facts = Facts::new(&[1; 6]);
    for algorithm in [RingHash, Maglev] {
        let here = plan(rules(algorithm), members(&[1; 6]));
        let mut others = members(&[1; 6]);
        others.reverse();
        let there = plan(rules(algorithm), others);
        for key in 0..500_u64 {
            let hash = Some(of(&key.to_le_bytes()));
            let pick = |plan: &Plan, number| {
                let mut ask = Ask {
                    hash,
                    ..ask(number)
                };
                plan.pick(&mut ask, &facts, Trust::Well).unwrap().index
            };
            assert_eq!(pick(&here, key), pick(&here, key + 1));
            assert_eq!(pick(&here, key), pick(&there, key));
        }
    }
}

#[test]
fn a_table_is_kept_while_its_members_are_the_same() {
    let table = |plan: &Plan| Arc::clone(plan.tiers().next().unwrap().table().unwrap());
    let subset = |weights: &[u32]| [(1, members(weights))];
    let first = Plan::new(rules(Maglev), &subset(&[1, 1]), None);
    let same = Plan::new(rules(Maglev), &subset(&[1, 1]), Some(&first));
    assert!(Arc::ptr_eq(&table(&first), &table(&same)));
    let other = Plan::new(rules(Maglev), &subset(&[1, 2]), Some(&first));
    assert!(!Arc::ptr_eq(&table(&first), &table(&other)));
}

#[test]
fn an_endpoint_that_has_not_grown_gets_its_part() {
    let mut facts = Facts::new(&[1; 3]);
    facts.grown = vec![FULL, FULL / 4, FULL];
    for algorithm in [RoundRobin, Random, LeastRequest] {
        let plan = plan(rules(algorithm), members(&[1; 3]));
        let shares = percents(&plan, &facts, 20_000);
        assert_close(&shares, &[44.4, 11.1, 44.4], 3.0);
    }
    facts.grown = vec![FULL / 10; 3];
    let plan = plan(rules(Random), members(&[1; 3]));
    assert_close(&percents(&plan, &facts, 20_000), &[33.3; 3], 1.0);
}

/// Requests under way at the second of two endpoints, which has grown to a tenth, and how many of all it got: so many
/// are under way at a time, and the oldest ends first.
fn of_newcomer(algorithm: Algorithm, under_way: usize) -> (u32, u32) {
    let mut facts = Facts::new(&[1; 2]);
    facts.grown = vec![FULL, FULL / 10];
    let plan = plan(rules(algorithm), members(&[1; 2]));
    let mut held = std::collections::VecDeque::new();
    let mut all = 0;
    for number in 0..2_000 {
        if held.len() == under_way {
            let ended: u32 = held.pop_front().unwrap();
            facts.active[at(ended)] -= 1;
            facts.latencies[at(ended)].observe(10_000_000, ask(number).now_ns);
        }
        let picked = plan.pick(&mut ask(number), &facts, Trust::Well).unwrap();
        facts.active[at(picked.index)] += 1;
        held.push_back(picked.index);
        all += picked.index;
    }
    (facts.active[1], all)
}

#[test]
fn one_of_two_that_has_not_grown_gets_its_part_of_what_is_under_way() {
    for algorithm in [LeastRequest, PeakEwma] {
        let (active, all) = of_newcomer(algorithm, 50);
        assert!((1..=7).contains(&active), "{algorithm:?}: {active} of 50");
        // A tenth of what the other gets, of 2000.
        assert!((100..=260).contains(&all), "{algorithm:?}: {all}");
        for few in [1, 2, 5] {
            let (_, all) = of_newcomer(algorithm, few);
            assert!((60..=300).contains(&all), "{algorithm:?} {few}: {all}");
        }
    }
}

/// Two near endpoints and four far ones.
fn near_and_far() -> Vec<Member> {
    let mut members = members(&[1; 6]);
    for member in &mut members[2..] {
        member.distance = 2;
    }
    members
}

#[test]
fn near_endpoints_go_first_and_spill_over_as_they_fail() {
    let mut facts = Facts::new(&[1; 6]);
    let pick = |facts: &Facts, requests| {
        let plan = plan(rules(Random), near_and_far());
        percents(&plan, facts, requests)
    };
    assert_close(&pick(&facts, 1_000)[2..], &[0.0; 4], 0.0);
    facts.out = vec![0];
    // Half of it is well, of 71 percent that are needed.
    let shares = pick(&facts, 20_000);
    assert_close(&shares, &[0.0, 70.4, 7.4, 7.4, 7.4, 7.4], 1.0);
    facts.out = vec![0, 1];
    assert_close(&pick(&facts, 20_000)[2..], &[25.0; 4], 1.0);
}

#[test]
fn what_is_known_of_health_is_renewed() {
    let mut facts = Facts::new(&[1; 6]);
    let plan = plan(rules(Random), near_and_far());
    let far = |facts: &Facts, number| {
        plan.pick(&mut ask(number), facts, Trust::Well)
            .unwrap()
            .distance
            == 2
    };
    assert!(!far(&facts, 0));
    facts.out = vec![0];
    // A request every millisecond.
    assert!((0..9).all(|number| !far(&facts, number)));
    assert!((20..200).any(|number| far(&facts, number)));
}

#[test]
fn in_a_panic_health_and_nearness_are_ignored() {
    let mut facts = Facts::new(&[1; 6]);
    facts.out = vec![0, 1, 2, 3, 4];
    let mut rules = rules(Random);
    rules.panic_percent = 50;
    let make = || plan(rules, near_and_far());
    assert_close(&percents(&make(), &facts, 20_000), &[16.7; 6], 1.0);
    assert!(
        make()
            .pick(&mut ask(1), &facts, Trust::Well)
            .unwrap()
            .is_panic
    );
    facts.out = vec![0, 2, 3];
    let shares = percents(&make(), &facts, 20_000);
    assert!(shares[0] == 0.0 && shares[1] > 65.0, "{shares:?}");
    facts.out = (0..6).collect();
    assert_eq!(make().pick(&mut ask(1), &facts, Trust::Well), None);
    let anyone = make().pick(&mut ask(1), &facts, Trust::Anyone).unwrap();
    assert!(anyone.is_panic && anyone.distance == 0);
}

#[test]
fn the_loss_of_a_large_near_place_is_no_panic_while_a_far_one_can_bear_all() {
    let mut members = members(&[1; 10]);
    for member in &mut members[7..] {
        member.distance = 2;
    }
    let mut rules = rules(Random);
    rules.panic_percent = 50;
    let mut facts = Facts::new(&[1; 10]);
    facts.out = (0..7).collect();
    let shares = |facts: &Facts| percents(&plan(rules, members.clone()), facts, 20_000);
    let far = [vec![0.0; 7], vec![33.3; 3]].concat();
    assert_close(&shares(&facts), &far, 1.3);
    // Two of three bear less than all of it.
    facts.out.push(7);
    assert_close(&shares(&facts), &[10.0; 10], 1.0);
}

#[test]
fn subsets_take_their_shares_and_stand_in_for_each_other() {
    let all = members(&[1; 4]);
    let subsets = [
        (90, all[..2].to_vec()),
        (10, all[2..].to_vec()),
        (50, Vec::new()),
        (0, all.clone()),
    ];
    let mut facts = Facts::new(&[1; 4]);
    let plan = Plan::new(rules(RoundRobin), &subsets, None);
    assert_close(
        &percents(&plan, &facts, 20_000),
        &[45.0, 45.0, 5.0, 5.0],
        0.6,
    );
    assert!(plan.has(3) && !plan.has(4));
    facts.out = vec![0, 1];
    assert_close(
        &percents(&plan, &facts, 1_000),
        &[0.0, 0.0, 50.0, 50.0],
        0.0,
    );
    let plan = Plan::new(rules(Maglev), &subsets, None);
    let pick = |number| {
        let hash = Some(of(b"the same"));
        let mut ask = Ask {
            hash,
            ..ask(number)
        };
        plan.pick(&mut ask, &facts, Trust::Well)
    };
    assert!((0..100).all(|number| pick(number) == pick(0)));
}

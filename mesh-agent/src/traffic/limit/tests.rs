//! Buckets against a slow model, from one thread and from several.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::keyed::Keyed;
use super::{Bucket, Rate, SECOND};

/// Tokens in parts of 1 / `per_ns`, refilled by the passing of each nanosecond.
struct Model {
    parts: u128,
    last_ns: u64,
}

impl Model {
    fn take(&mut self, amount: u64, per_ns: u64, burst: u64, now_ns: u64, tokens: u64) -> bool {
        let full = u128::from(burst) * u128::from(per_ns);
        let came = u128::from(now_ns - self.last_ns) * u128::from(amount);
        self.parts = (self.parts + came).min(full);
        self.last_ns = now_ns;
        let wanted = u128::from(tokens) * u128::from(per_ns);
        let granted = wanted <= self.parts;
        if granted {
            self.parts -= wanted;
        }
        granted
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bucket_decides_as_the_slow_model_does(
        amount in 1_u64..2000,
        unit_ns in 1000_u64..100_000_000,
        burst in 1_u64..50,
        steps in proptest::collection::vec((0_u64..500_000_000, 1_u64..4), 1..200),
    ) {
        // Whole nanoseconds per token: both are exact, and must agree.
        let per_ns = unit_ns * amount;
        let rate = Rate::new(amount, Duration::from_nanos(per_ns), burst);
        let bucket = Bucket::default();
        let mut now = 5 * SECOND;
        let mut model = Model { parts: u128::from(burst) * u128::from(per_ns), last_ns: now };
        for (pause, tokens) in steps {
            now += pause;
            let expected = model.take(amount, per_ns, burst, now, tokens);
            prop_assert_eq!(bucket.take(&rate, now, tokens, 0).is_ok(), expected);
        }
    }

    #[test]
    fn no_window_holds_more_than_the_burst_and_what_comes_in_it(
        amount in 1_u64..5_000_000,
        per_ms in 1_u64..5000,
        burst in 1_u64..200,
        steps in proptest::collection::vec((0_u64..3_000_000, 1_u64..9), 1..300),
    ) {
        let per = Duration::from_millis(per_ms);
        let rate = Rate::new(amount, per, burst);
        let bucket = Bucket::default();
        let mut now = 0;
        let mut granted: Vec<(u64, u64)> = Vec::new();
        for (pause, tokens) in steps {
            now += pause;
            if bucket.take(&rate, now, tokens, 0).is_ok() {
                granted.push((now, tokens));
            }
        }
        for (index, (from, _)) in granted.iter().enumerate() {
            let mut sum = 0_u128;
            for (to, tokens) in &granted[index..] {
                sum += u128::from(*tokens);
                let came = u128::from(to - from) * u128::from(amount);
                let most = u128::from(burst) * per.as_nanos() + came;
                prop_assert!(sum * per.as_nanos() <= most, "{sum} tokens in {} ns", to - from);
            }
        }
    }
}

#[test]
fn several_threads_together_never_get_more_than_the_limit() {
    let rate = Rate::new(1000, Duration::from_secs(1), 100);
    let bucket = Bucket::default();
    let clock = AtomicU64::new(SECOND);
    let work = || {
        let mut granted = Vec::new();
        for _ in 0..20_000 {
            let now = clock.fetch_add(7_000, Ordering::Relaxed);
            if bucket.take(&rate, now, 1, 0).is_ok() {
                granted.push(now);
            }
        }
        granted
    };
    let mut granted: Vec<u64> = thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(work));
        threads
            .into_iter()
            .flat_map(|it| it.join().unwrap())
            .collect()
    });
    granted.sort_unstable();
    let lasted = clock.load(Ordering::Relaxed) - SECOND;
    let most = 100 + usize::try_from(lasted / 1_000_000).unwrap();
    assert!(granted.len() <= most, "{} of {most}", granted.len());
    assert!(
        granted.len() * 100 >= most * 99,
        "{} of {most}",
        granted.len()
    );
    for width in [1, 10, 100, 1000] {
        for window in granted.windows(100 + width + 1) {
            let took = window[window.len() - 1] - window[0];
            let least = u64::try_from(width).unwrap() * 1_000_000;
            assert!(took >= least, "{} in {took} ns", window.len());
        }
    }
}

#[test]
fn what_is_left_and_when_it_is_full_is_told() {
    let rate = Rate::new(10, Duration::from_secs(1), 5);
    let bucket = Bucket::default();
    let now = SECOND;
    let first = bucket.take(&rate, now, 1, 0).unwrap();
    assert_eq!((first.remaining, first.reset_ns), (4, SECOND / 10));
    for _ in 0..4 {
        assert!(bucket.take(&rate, now, 1, 0).is_ok());
    }
    let refused = bucket.take(&rate, now, 1, 0).unwrap_err();
    assert_eq!(refused.retry_ns, SECOND / 10);
    assert!(bucket.take(&rate, now + SECOND / 10 - 1, 1, 0).is_err());
    assert!(bucket.take(&rate, now + SECOND / 10, 1, 0).is_ok());
}

#[test]
fn who_is_patient_gets_the_next_slots_and_no_more() {
    let rate = Rate::new(10, Duration::from_secs(1), 1);
    let bucket = Bucket::default();
    let delays: Vec<_> = (0..5)
        .map(|_| bucket.take(&rate, SECOND, 1, 3 * SECOND / 10))
        .map(|taken| taken.map(|it| it.delay_ns / 1_000_000))
        .collect();
    assert_eq!(delays[..4], [Ok(0), Ok(100), Ok(200), Ok(300)]);
    assert_eq!(delays[4].unwrap_err().retry_ns, SECOND / 10);
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    let rate = Rate::new(1, Duration::from_secs(1), 1);
    let (bucket, mut keyed) = (Bucket::default(), Keyed::new(8));
    assert!(bucket.take(&rate, SECOND, 1, 0).is_ok());
    bucket.give_back(&rate, 1);
    assert!(bucket.take(&rate, SECOND, 1, 0).is_ok());
    assert!(bucket.take(&rate, SECOND, 1, 0).is_err());
    assert!(keyed.take(&rate, 7, SECOND, 1, 0).is_ok());
    keyed.give_back(&rate, 7, 1);
    assert!(keyed.take(&rate, 7, SECOND, 1, 0).is_ok());
    assert!(keyed.take(&rate, 7, SECOND, 1, 0).is_err());
}

#[test]
fn keys_do_not_take_from_each_other() {
    let rate = Rate::new(1, Duration::from_secs(1), 3);
    let mut keyed = Keyed::new(100);
    for key in 0..10 {
        let granted = (0..10).filter(|_| keyed.take(&rate, key, SECOND, 1, 0).is_ok());
        assert_eq!(granted.count(), 3);
    }
}

#[test]
fn there_is_a_bound_and_who_uses_most_is_remembered() {
    let rate = Rate::new(1, Duration::from_secs(1), 10);
    let mut keyed = Keyed::new(1000);
    for _ in 0..10 {
        assert!(keyed.take(&rate, u64::MAX, SECOND, 1, 0).is_ok());
    }
    for key in 0..50_000 {
        assert!(keyed.take(&rate, key, SECOND, 1, 0).is_ok());
        assert!(keyed.len() <= 1000);
    }
    assert!(keyed.forgotten() > 0);
    assert!(keyed.take(&rate, u64::MAX, SECOND, 1, 0).is_err());
}

#[test]
fn full_buckets_are_forgotten_first_and_at_no_cost() {
    let rate = Rate::new(1, Duration::from_secs(1), 10);
    let mut keyed = Keyed::new(1000);
    for key in 0..5_000 {
        assert!(keyed.take(&rate, key, key * SECOND, 1, 0).is_ok());
    }
    assert_eq!(keyed.forgotten(), 0);
    assert!(keyed.len() <= 1000 && !keyed.is_empty());
}

#[test]
fn bytes_faster_than_the_clock_are_counted_in_bulk() {
    // Ten bytes per nanosecond.
    let rate = Rate::new(10 * SECOND, Duration::from_secs(1), 16_384);
    let bucket = Bucket::default();
    let mut now = SECOND;
    for _ in 0..1000 {
        now += 1639;
        assert!(bucket.take(&rate, now, 16_384, 0).is_ok());
    }
    assert!(bucket.take(&rate, now, 16_384, 0).is_err());
}

//! Copies between in-memory streams.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::{Allowance, Counts, End, Watch, both_ways};

/// How much has been taken and not given back.
#[derive(Default)]
struct Ledger {
    taken: AtomicUsize,
    limit: usize,
}

impl Allowance for Ledger {
    fn take(&self, bytes: usize) -> bool {
        if self.taken.load(Ordering::Relaxed) + bytes > self.limit {
            return false;
        }
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    fn give(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

const LONG: Duration = Duration::from_hours(1);

fn watch(idle: Duration) -> Watch<fn()> {
    Watch {
        idle,
        every: LONG,
        report: || (),
    }
}

#[tokio::test(start_paused = true)]
async fn one_side_may_close_while_the_other_still_talks() {
    let (mut client, mut left) = duplex(64);
    let (mut right, mut server) = duplex(64);
    let copy = tokio::spawn(async move {
        let counts = Counts::default();
        let end = both_ways(
            &mut left,
            &mut right,
            &Ledger::default(),
            &counts,
            watch(LONG),
        )
        .await;
        (end, counts.load())
    });
    client.write_all(b"question").await.expect("writes");
    client.shutdown().await.expect("closes");
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.expect("reads");
    server.write_all(b"a long answer").await.expect("writes");
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("reads");
    assert_eq!(
        (&question[..], &answer[..]),
        (&b"question"[..], &b"a long answer"[..])
    );
    let (end, counts) = copy.await.expect("ends");
    assert!(matches!(end, End::Finished));
    assert_eq!(counts, (8, 13));
}

#[tokio::test(start_paused = true)]
async fn a_silent_pair_is_ended_after_the_idle_limit() {
    let (_client, mut left) = duplex(64);
    let (mut right, _server) = duplex(64);
    let started = tokio::time::Instant::now();
    let counts = Counts::default();
    let ledger = Ledger::default();
    let watch = watch(Duration::from_mins(1));
    let end = both_ways(&mut left, &mut right, &ledger, &counts, watch).await;
    assert!(matches!(end, End::Idle));
    assert!(started.elapsed() >= Duration::from_mins(1));
    assert!(started.elapsed() < Duration::from_secs(80));
}

#[tokio::test(start_paused = true)]
async fn buffers_grow_within_the_allowance_and_give_it_back() {
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let ledger = Ledger {
        limit: 20_000,
        ..Ledger::default()
    };
    let (mut client, mut left) = duplex(1 << 20);
    let (mut right, mut server) = duplex(1 << 20);
    client.write_all(&bytes).await.expect("fits");
    client.shutdown().await.expect("closes");
    server.shutdown().await.expect("closes");
    let mut received = Vec::new();
    let counts = Counts::default();
    let (end, result) = tokio::join!(
        both_ways(&mut left, &mut right, &ledger, &counts, watch(LONG)),
        server.read_to_end(&mut received),
    );
    result.expect("reads");
    assert!(matches!(end, End::Finished));
    assert_eq!(received, bytes);
    assert_eq!(ledger.taken.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_reader_does_not_take_arrives_when_it_does() {
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for limit in [0, 1 << 20] {
        let ledger = Ledger {
            limit,
            ..Ledger::default()
        };
        let (mut client, mut left) = duplex(1 << 20);
        let (mut right, mut server) = duplex(100);
        client.write_all(&bytes).await.expect("fits");
        client.shutdown().await.expect("closes");
        let counts = Counts::default();
        let slow = async {
            let mut received = Vec::new();
            let mut piece = [0; 70];
            loop {
                tokio::task::yield_now().await;
                match server.read(&mut piece).await.expect("reads") {
                    0 => break,
                    length => received.extend_from_slice(&piece[..length]),
                }
            }
            server.shutdown().await.expect("closes");
            received
        };
        let (end, received) = tokio::join!(
            both_ways(&mut left, &mut right, &ledger, &counts, watch(LONG)),
            slow
        );
        assert!(matches!(end, End::Finished));
        assert_eq!(received, bytes);
        assert_eq!(ledger.taken.load(Ordering::Relaxed), 0);
    }
}

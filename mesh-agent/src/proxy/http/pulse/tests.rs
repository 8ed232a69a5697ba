//! Time limits on a paused clock, and what makes a connection ambiguous.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::time::{Instant, advance, timeout};

use super::{Beating, Pulse, Verdict};
use crate::proxy::config::Timeouts;

fn timeouts() -> Timeouts {
    Timeouts {
        first_byte: Duration::from_secs(30),
        header: Duration::from_secs(10),
        keep_alive: Duration::from_secs(100),
        idle: Duration::from_secs(50),
        max_age: Duration::from_secs(200),
        ..Timeouts::default()
    }
}

fn pulse(is_http2: bool) -> Pulse {
    Pulse::new(timeouts(), is_http2)
}

/// The first verdict that is not `Alive`, and after how many seconds, with a look each second.
async fn watch(pulse: &Pulse, mut each_second: impl FnMut(u32)) -> (Verdict, u32) {
    for second in 0..300 {
        each_second(second);
        match pulse.look() {
            Verdict::Alive => advance(Duration::from_secs(1)).await,
            verdict => return (verdict, second),
        }
    }
    (Verdict::Alive, 300)
}

#[tokio::test(start_paused = true)]
async fn a_client_must_say_something() {
    for is_http2 in [false, true] {
        let pulse = pulse(is_http2);
        assert!(pulse.is_untouched());
        assert_eq!(watch(&pulse, |_| ()).await, (Verdict::Retire, 31));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_requests_is_retired_after_a_while() {
    for is_http2 in [false, true] {
        let pulse = pulse(is_http2);
        pulse.has_read();
        assert_eq!(watch(&pulse, |_| ()).await, (Verdict::Retire, 101));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_to_end_waits_for_a_client_that_takes_its_time() {
    let pulse = Arc::new(pulse(true));
    let (near, mut far) = duplex(10);
    let mut near = Beating::new(near, Arc::clone(&pulse));
    let since = Instant::now();
    let is_forsaken_in = async |seconds| {
        for _ in 0..seconds {
            advance(Duration::from_secs(1)).await;
            pulse.look();
        }
        pulse.is_forsaken(since)
    };
    let mut sending = pin!(async {
        near.write_all(&[0; 20]).await.expect("writes");
        near.flush().await.expect("flushes");
    });
    let second = Duration::from_secs(1);
    assert!(timeout(second, sending.as_mut()).await.is_err());
    assert!(!is_forsaken_in(20).await, "bytes wait");
    far.read_exact(&mut [0; 10]).await.expect("reads");
    timeout(second, sending).await.expect("has room");
    assert!(!is_forsaken_in(10).await, "bytes have moved");
    assert!(is_forsaken_in(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_head_must_end_in_time_however_its_bytes_drip() {
    for is_http2 in [false, true] {
        let pulse = pulse(is_http2);
        pulse.request_started();
        pulse.request_ended();
        assert_eq!(pulse.look(), Verdict::Alive);
        let drip = |_| {
            pulse.has_read();
            pulse.has_head(true, 1);
        };
        assert_eq!(watch(&pulse, drip).await, (Verdict::Overdue, 11));
    }
}

#[tokio::test(start_paused = true)]
async fn heads_that_end_one_after_the_other_are_in_time() {
    for is_http2 in [false, true] {
        let pulse = pulse(is_http2);
        let come = |second| {
            pulse.has_read();
            pulse.has_head(true, second);
            pulse.request_started();
            pulse.request_ended();
        };
        let end = watch(&pulse, come).await;
        // Of HTTP/1 a response says that the connection is old.
        let expected = if is_http2 {
            (Verdict::Retire, 201)
        } else {
            (Verdict::Alive, 300)
        };
        assert_eq!(end, expected);
        assert!(pulse.is_aged());
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_block_of_http_2_is_overdue_beside_other_streams() {
    let pulse = pulse(true);
    pulse.request_started();
    let drip = |_| {
        pulse.has_read();
        pulse.has_head(true, 1);
    };
    assert_eq!(watch(&pulse, drip).await, (Verdict::Overdue, 11));
}

#[tokio::test(start_paused = true)]
async fn a_head_waits_while_the_request_before_it_is_answered() {
    let pulse = pulse(false);
    pulse.request_started();
    pulse.has_head(true, 1);
    assert_eq!(
        watch(&pulse, |_| pulse.has_read()).await,
        (Verdict::Alive, 300)
    );
    pulse.request_ended();
    assert_eq!(watch(&pulse, |_| ()).await, (Verdict::Overdue, 11));
}

#[tokio::test(start_paused = true)]
async fn a_request_may_take_its_time_while_bytes_move() {
    let pulse = pulse(false);
    pulse.request_started();
    assert_eq!(
        watch(&pulse, |_| pulse.has_read()).await,
        (Verdict::Alive, 300)
    );
    assert_eq!(watch(&pulse, |_| ()).await, (Verdict::Overdue, 50));
}

#[tokio::test(start_paused = true)]
async fn pings_of_http_2_are_no_heads_and_no_requests() {
    let pulse = pulse(true);
    assert_eq!(
        watch(&pulse, |_| pulse.has_read()).await,
        (Verdict::Retire, 101)
    );
}

#[tokio::test(start_paused = true)]
async fn an_age_of_zero_is_none() {
    let forever = Timeouts {
        max_age: Duration::ZERO,
        ..timeouts()
    };
    let pulse = Pulse::new(forever, true);
    pulse.request_started();
    assert_eq!(
        watch(&pulse, |_| pulse.has_read()).await,
        (Verdict::Alive, 300)
    );
    assert!(!pulse.is_aged());
}

#[tokio::test]
async fn a_connection_rests_when_all_that_has_come_is_answered() {
    let pulse = Arc::new(pulse(false));
    let (mut client, stream) = duplex(1024);
    let mut stream = Beating::new(stream, Arc::clone(&pulse));
    let looks = || [pulse.look(), pulse.look()];
    let request = b"GET / HTTP/1.1\r\n\r\n";
    let mut place = [0; 18];
    client.write_all(request).await.expect("fits");
    stream.read_exact(&mut place).await.expect("reads");
    assert_eq!(looks(), [Verdict::Alive; 2], "it has not been taken");
    assert!(!pulse.is_framed_twice());
    pulse.request_started();
    assert_eq!(looks(), [Verdict::Alive; 2], "it has not been answered");
    stream.write_all(b"HTTP/1.1 200").await.expect("fits");
    pulse.request_ended();
    assert_eq!(looks(), [Verdict::Alive; 2], "it has not been sent");
    stream.flush().await.expect("flushes");
    assert_eq!(looks(), [Verdict::Resting; 2]);
    client.write_all(&request[..3]).await.expect("fits");
    stream.read_exact(&mut place[..3]).await.expect("reads");
    assert_eq!(looks(), [Verdict::Alive; 2], "another one has begun");
}

#[test]
fn all_requests_from_the_ambiguous_one_on_are_refused() {
    let pulse = Pulse::new(timeouts(), false);
    pulse
        .ambiguous
        .store(2, std::sync::atomic::Ordering::Relaxed);
    let answers = [(); 3].map(|()| pulse.is_framed_twice());
    assert_eq!(answers, [false, true, true]);
}

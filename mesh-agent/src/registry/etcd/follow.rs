//! Follows etcd: reads everything once, then every change; begins again where it has to.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{self, MissedTickBehavior};

use super::error::Error;
use super::identity;
use super::intake;
use super::layout::Place;
use super::lease;
use super::link::Link;
use super::listing;
use super::pause::pause;
use super::watch::Message;
use super::wire::{Event, EventKind};
use crate::state::object::Kind;

/// Longest time between two signs of life.
const BEAT: Duration = Duration::from_secs(2);
/// A lease is renewed this many times before it runs out.
const RENEWALS: u32 = 3;

/// Follows for ever.
pub(super) async fn run(link: Arc<Link>) {
    let mut failures = 0;
    let mut resume = None;
    loop {
        let error = match follow(&link, &mut resume).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if error.is_compacted() || matches!(error, Error::Store(_)) {
            resume = None;
        }
        failures = if link.is_up() { 0 } else { failures + 1 };
        let is_there = error.is_compacted() || matches!(error, Error::LeaseLost | Error::Moved(_));
        if is_there && failures == 0 {
            link.metrics.count(error.reason());
            tracing::info!(reason = %error, "the shared registry is followed anew");
            continue;
        }
        link.down(&error);
        let share = rand::rng().random();
        time::sleep(pause(failures, share)).await;
    }
}

/// Follows until something fails. `resume` is the write from which a watch can go on.
async fn follow(link: &Arc<Link>, resume: &mut Option<i64>) -> Result<Infallible, Error> {
    identity::expect_same(link).await?;
    let last = lease::hold(link).await?;
    link.answers();
    let next = match *resume {
        // A write that is still to come would be waited for in silence: etcd was restored or replaced.
        // Nor does it go on where the lease was lost: it would tell that own endpoints have gone with it.
        Some(next) if !lease::was_lost(link) && next <= last + 1 => next,
        _ => listing::take(link).await?,
    };
    *resume = Some(next);
    let mut watch = link.client.watch(link.layout.prefix(), next).await?;
    let mut beats = time::interval(BEAT.min(link.ttl / RENEWALS));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = watch.next() => {
                take(link, message?, resume).await?;
                link.up();
            }
            _ = beats.tick() => {
                if !lease::renew(link).await? {
                    return Err(Error::LeaseLost);
                }
                if !link.client.is_of_current(&watch) {
                    return Err(Error::Moved(watch.member().to_owned()));
                }
                link.alive();
                intake::drop_missing(link).await?;
            }
        }
    }
}

async fn take(link: &Arc<Link>, message: Message, resume: &mut Option<i64>) -> Result<(), Error> {
    match message {
        Message::Quiet => Ok(()),
        Message::Compacted => Err(Error::Compacted),
        Message::Events { events, next } => {
            expect_lease(link, &events).await?;
            note_nodes(link, &events);
            let steps = events.iter().filter_map(|it| intake::step(link, it));
            let puts = events.iter().filter(|it| it.kind == EventKind::Put);
            let shown = puts.filter_map(|it| intake::shown(link, &it.kv)).collect();
            intake::take(link, steps.collect(), shown).await?;
            *resume = Some(next);
            link.has_seen(next - 1);
            Ok(())
        }
    }
}

/// Whose leases are gone. Endpoints that go with a lease go in the same write, before or after it.
fn note_nodes(link: &Link, events: &[Event]) {
    for event in events {
        if let Place::Node(node) = link.layout.place(&event.kv.key.0) {
            let absence = &mut link.known().absence;
            match event.kind {
                EventKind::Put => absence.node_is_there(&node, event.kv.create_revision.0),
                EventKind::Delete => absence.node_is_gone(&node),
            }
        }
    }
}

/// Endpoints of this node that go may have been deleted, or have gone with the lease; then they are not let go here.
async fn expect_lease(link: &Link, events: &[Event]) -> Result<(), Error> {
    let snapshot = link.store.snapshot();
    let is_own = |event: &Event| {
        let place = link.layout.place(&event.kv.key.0);
        matches!(place, Place::Object(Kind::Endpoint, key) if link.is_own(&snapshot, &key))
    };
    let mut gone = events.iter().filter(|it| it.kind == EventKind::Delete);
    if gone.any(is_own) && !lease::renew(link).await? {
        return Err(Error::LeaseLost);
    }
    Ok(())
}

//! Who asks for much waits for the turn, and holds up nobody else.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::Poll;

use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::*;
use crate::api::large::Large;
use crate::api::{Context, router};

/// Whether a future is still at it when it is polled once.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test]
async fn one_is_made_at_a_time_and_this_thread_goes_on() {
    let large = Large::new(Metrics::default());
    let (go, wait) = mpsc::channel::<&str>();
    let mut first = Box::pin(large.make(move || wait.recv()));
    assert!(is_pending(&mut first).await);
    let mut second = Box::pin(large.make(|| "second"));
    assert!(is_pending(&mut second).await, "it is not its turn");
    go.send("first").unwrap();
    assert_eq!(first.await.unwrap(), Ok("first"));
    assert_eq!(second.await.unwrap(), "second");
}

#[tokio::test]
async fn who_goes_away_keeps_the_turn_until_the_work_is_done() {
    let large = Large::new(Metrics::default());
    let (go, wait) = mpsc::channel::<()>();
    let mut gone = Box::pin(large.make(move || wait.recv()));
    assert!(is_pending(&mut gone).await);
    drop(gone);
    let mut next = Box::pin(large.make(|| ()));
    assert!(is_pending(&mut next).await);
    go.send(()).unwrap();
    next.await.unwrap();
}

#[tokio::test]
async fn small_answers_do_not_wait_for_large_ones() {
    let store = Arc::new(Store::in_memory());
    let context = Context::new(&config(), store, Arc::new(FixedNode::default()));
    let router = TowerToHyperService::new(router(context.clone()));
    let get = |path: &str| Box::pin(router.call(Request::get(path).body(Body::empty()).unwrap()));
    let (go, wait) = mpsc::channel::<()>();
    let mut first = Box::pin(context.large.make(move || wait.recv()));
    assert!(is_pending(&mut first).await);
    let mut large = ["/api/v1/endpoints", "/v1/catalog/services"].map(get);
    for answer in &mut large {
        assert!(is_pending(answer).await);
    }
    for (path, status) in [
        ("/v1/health/service/web", StatusCode::OK),
        ("/v1/agent/self", StatusCode::OK),
        ("/v1/kv/web/colour", StatusCode::NOT_FOUND),
        (WEB, StatusCode::NOT_FOUND),
    ] {
        assert_eq!(get(path).await.unwrap().status(), status, "{path}");
    }
    for answer in &mut large {
        assert!(is_pending(answer).await, "it is not its turn");
    }
    go.send(()).unwrap();
    first.await.unwrap().unwrap();
    for answer in large {
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
}

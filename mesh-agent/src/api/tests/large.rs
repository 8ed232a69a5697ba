//! Who asks for much waits for the turn, and holds up nobody else.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::Poll;

use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::*;
use crate::api::large::Large;
use crate::api::{Context, Scope, pod_router, router};

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
    let large = [
        "/api/v1/endpoints",
        "/v1/catalog/services",
        "/api/v1/config_dump",
        "/api/v1/graph",
        "/api/v1/connections",
        "/api/v1/coverage",
    ];
    let mut large = large.map(get);
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
    for answer in futures_util::future::join_all(large).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn operators_do_not_wait_for_workloads() {
    let store = Arc::new(Store::in_memory());
    let context = Context::new(&config(), store, Arc::new(FixedNode::default()));
    let of_workloads = context.clone().for_workloads();
    let (go, wait) = mpsc::channel::<()>();
    let mut first = Box::pin(of_workloads.large.make(move || wait.recv()));
    assert!(is_pending(&mut first).await);
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    let scope = Scope {
        namespace: "shop".to_owned(),
        addresses: Vec::new(),
    };
    let pod = TowerToHyperService::new(pod_router(of_workloads.clone(), scope));
    let mut second = Box::pin(pod.call(get("/v1/catalog/services")));
    assert!(is_pending(&mut second).await);
    let router = TowerToHyperService::new(router(context));
    for path in ["/api/v1/endpoints", "/v1/catalog/services"] {
        let answer = router.call(get(path)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    assert!(is_pending(&mut second).await, "it is not its turn");
    go.send(()).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn who_asks_for_much_waits_after_each_answer_for_those_who_ask_for_one() {
    let large = Large::new(Metrics::default());
    let (go, wait) = mpsc::channel::<()>();
    let mut first = Box::pin(large.make(move || wait.recv()));
    assert!(is_pending(&mut first).await);
    let made = Arc::new(std::sync::Mutex::new(Vec::new()));
    let make = |large: Large, name: &'static str| {
        let made = Arc::clone(&made);
        Box::pin(async move {
            let work = move || made.lock().unwrap().push(name);
            large.make(work).await.unwrap();
        })
    };
    let (greedy, modest) = (large.in_own_line(), large.in_own_line());
    let mut all = vec![
        make(greedy.clone(), "greedy"),
        make(greedy.clone(), "greedy"),
        make(greedy, "greedy"),
        make(modest, "modest"),
    ];
    for answer in &mut all {
        assert!(is_pending(answer).await);
    }
    go.send(()).unwrap();
    first.await.unwrap().unwrap();
    let all: tokio::task::JoinSet<()> = all.into_iter().collect();
    all.join_all().await;
    let made = made.lock().unwrap();
    assert_eq!(*made, ["greedy", "modest", "greedy", "greedy"]);
}

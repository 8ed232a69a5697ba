//! Watchers: what they are told, in which order, and how it ends.

use hyper::body::Incoming;

use super::*;
use crate::api::MAX_WATCHERS;
use crate::state::{Change, decode};

/// An open watch.
struct Watch {
    body: Incoming,
    buffer: String,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Watch {
    async fn open(fixture: &Fixture, path: &str) -> Self {
        let stream = TcpStream::connect(fixture.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get(path)
            .header(HOST, "localhost")
            .body(Body::empty())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        Self {
            body: response.into_body(),
            buffer: String::new(),
            connection,
        }
    }

    /// The next event as `TYPE name`, or `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let data: Value = serde_json::from_str(data.unwrap()).unwrap();
                self.buffer = rest.to_owned();
                let name = data["object"]["metadata"]["name"].as_str();
                let name = name.or_else(|| data["object"]["reason"].as_str()).unwrap();
                return Some(format!("{} {name}", data["type"].as_str().unwrap()));
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame());
            let frame = frame.await.expect("an event comes")?;
            let bytes = frame.unwrap().into_data().unwrap();
            self.buffer.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    async fn expect(&mut self, events: &[&str]) {
        for event in events {
            assert_eq!(self.next().await.as_deref(), Some(*event));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn labelled(label: &str) -> Value {
    let mut service = service();
    service["metadata"] = json!({"labels": {"team": label}});
    service
}

#[tokio::test]
async fn watcher_sees_what_is_there_and_then_every_write_in_order() {
    let fixture = Fixture::new().await;
    let db = "/api/v1/namespaces/data/services/db";
    fixture.put(WEB, &service()).await;
    let mut all = Watch::open(&fixture, "/api/v1/services?watch=true").await;
    let mut shop = Watch::open(&fixture, "/api/v1/namespaces/shop/services?watch=true").await;

    fixture.put(db, &service()).await;
    fixture.put(WEB, &labelled("a")).await;
    fixture.put(WEB, &labelled("a")).await;
    fixture.delete(WEB).await;

    all.expect(&["ADDED web", "ADDED db", "MODIFIED web", "DELETED web"])
        .await;
    shop.expect(&["ADDED web", "MODIFIED web", "DELETED web"])
        .await;
    fixture.stop().await;
    assert_eq!(
        all.next().await,
        None,
        "a stopping server ends its watchers"
    );
}

#[tokio::test]
async fn watcher_goes_on_after_the_version_it_has_seen() {
    let fixture = Fixture::new().await;
    fixture.put(WEB, &service()).await;
    let list = fixture.get("/api/v1/services").await.json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    fixture.put(WEB, &labelled("a")).await;
    fixture.put(WEB, &labelled("b")).await;

    let path = format!("/api/v1/services?watch=true&resourceVersion={version}");
    let mut watch = Watch::open(&fixture, &path).await;
    fixture.delete(WEB).await;

    watch
        .expect(&["MODIFIED web", "MODIFIED web", "DELETED web"])
        .await;
    let future = fixture.get("/api/v1/services?watch=1&resourceVersion=99");
    assert_eq!(
        future.await.problem(),
        (410, "resourceVersion".to_owned(), "Expired".to_owned())
    );
    let nonsense = fixture.get("/api/v1/services?watch=1&resourceVersion=x");
    assert_eq!(nonsense.await.problem().0, 400);
    fixture.stop().await;
}

#[tokio::test]
async fn endpoint_watcher_sees_its_service_come_and_go() {
    let fixture = Fixture::new().await;
    let endpoint = json!({"spec": {"service": "web", "address": "10.0.0.3"}});
    let path = "/api/v1/namespaces/shop/endpoints/web-1";
    fixture.put(path, &endpoint).await;
    let mut watch = Watch::open(&fixture, "/api/v1/endpoints?watch=true").await;

    fixture.put(WEB, &service()).await;
    fixture.delete(WEB).await;

    watch
        .expect(&["ADDED web-1", "MODIFIED web-1", "MODIFIED web-1"])
        .await;
    fixture.stop().await;
}

#[tokio::test]
async fn watcher_that_lags_too_far_behind_is_told_so() {
    let fixture = Fixture::new().await;
    fixture.put(WEB, &service()).await;
    let mut watch = Watch::open(&fixture, "/api/v1/services?watch=true").await;
    watch.expect(&["ADDED web"]).await;

    // Nothing else runs on this thread meanwhile, so the watcher cannot keep up.
    for write in 0..1100 {
        let key = ObjectKey::new("shop", "web");
        let document = labelled(&format!("t{write}"));
        let change = Change::Put(decode::manifest(Kind::Service, &key, document).unwrap());
        fixture.store.apply(change).unwrap();
    }

    watch.expect(&["ERROR Expired"]).await;
    assert_eq!(watch.next().await, None);
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn idle_watcher_hears_that_the_connection_lives() {
    let fixture = Fixture::new().await;
    let mut watch = Watch::open(&fixture, "/api/v1/services?watch=true").await;
    for _ in 0..3 {
        let frame = watch.body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), ":\n\n");
    }
    fixture.stop().await;
}

#[tokio::test]
async fn number_of_watchers_is_bounded() {
    let fixture = Fixture::new().await;
    let path = "/api/v1/services?watch=true";
    let mut watchers = Vec::new();
    for _ in 0..MAX_WATCHERS {
        watchers.push(Watch::open(&fixture, path).await);
    }

    let refused = fixture.get(path).await;

    assert_eq!(refused.problem().2, "TooManyWatchers");
    assert_eq!(refused.status, 429);
    assert_eq!(fixture.counted.refused("watches"), 1);
    fixture.stop().await;
}

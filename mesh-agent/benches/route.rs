//! What it costs to choose a rule among 10 routes, and among 10,000: `cargo bench -p mesh-agent --bench route`.
//!
//! Both tables are asked the same number of different requests, spread over all routes, so that what differs is the
//! table: also what it costs to be too large for the processor's caches. The bound is that of the issue: twice as much.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and fails loudly"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method};
use mesh_agent::state::http_route::HttpRoute;
use mesh_agent::traffic::route::Request;
use mesh_agent::traffic::route::compiled::CompiledRoute;
use mesh_agent::traffic::route::table::Table;
use serde_json::json;

/// Different requests.
const REQUESTS: usize = 1_000;
/// Choices per round.
const CHOICES: usize = 100_000;
/// Rounds, of which the fastest counts: everything else on the machine only makes one slower.
const ROUNDS: usize = 20;
/// Most that the larger table may cost, as a multiple of the smaller one.
const BOUND: f64 = 2.0;

fn main() {
    let shapes: [(&str, MakeShape); 3] = [
        ("a prefix each", |number| Shape {
            host: None,
            path: format!("/service-{number}/v1"),
            user: None,
        }),
        ("a host each", |number| Shape {
            host: Some(format!("service-{number}.shop.mesh")),
            path: "/v1".to_owned(),
            user: None,
        }),
        ("a header each", |number| Shape {
            host: None,
            path: "/v1".to_owned(),
            user: Some(number.to_string()),
        }),
    ];
    for (name, shape) in shapes {
        let few = cost(10, shape);
        let many = cost(10_000, shape);
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        println!("{name}: 10 routes {few:?}, 10,000 routes {many:?}, ratio {ratio:.2}");
        // Without optimisation the ratio says nothing.
        assert!(
            cfg!(debug_assertions) || ratio <= BOUND,
            "{name}: {ratio:.2}"
        );
    }
}

/// What tells one route from the others.
struct Shape {
    host: Option<String>,
    path: String,
    user: Option<String>,
}

/// Makes the shape of a route of its number.
type MakeShape = fn(usize) -> Shape;

/// The time of one choice.
fn cost(routes: usize, shape: MakeShape) -> Duration {
    let table = Table::new(
        (0..routes)
            .map(|number| route(number, &shape(number)))
            .collect(),
    );
    let asked: Vec<_> = (0..REQUESTS)
        .map(|request| {
            // A prime: the requests do not follow the order in which the routes lie in memory.
            let number = request * 7_919 % routes;
            let Shape { host, path, user } = shape(number);
            let mut headers = HeaderMap::new();
            headers.insert("user-agent", HeaderValue::from_static("bench"));
            if let Some(user) = user {
                headers.insert("x-user", HeaderValue::try_from(user).unwrap());
            }
            (host, format!("{path}/orders/1"), headers)
        })
        .collect();
    let round = || {
        let begin = Instant::now();
        for (host, path, headers) in asked.iter().cycle().take(CHOICES) {
            let request = Request {
                host: Some(host.as_deref().unwrap_or("web.shop.mesh")),
                authority: host.as_deref(),
                path,
                query: None,
                method: &Method::GET,
                headers,
                is_grpc: false,
            };
            assert!(black_box(table.choose(&request)).is_some());
        }
        begin.elapsed()
    };
    let fastest = (0..ROUNDS).map(|_| round()).min().unwrap();
    fastest / u32::try_from(CHOICES).unwrap()
}

fn route(number: usize, shape: &Shape) -> Arc<CompiledRoute> {
    let headers: Vec<_> = shape
        .user
        .iter()
        .map(|it| json!({"name": "x-user", "value": it}))
        .collect();
    let object: HttpRoute = serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": format!("r-{number}"), "namespace": "shop"},
        "spec": {
            "hostnames": Vec::from_iter(&shape.host),
            "rules": [{"matches": [{"path": {"value": shape.path}, "headers": headers}]}],
        },
    }))
    .unwrap();
    Arc::new(CompiledRoute::http(&object))
}

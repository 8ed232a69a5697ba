//! The slowest request in a hundred: with a workload beside that takes all it can get, and with an endpoint that is slow
//! at times.

use std::io;

use mesh_tests::protocol::ServerKind;
use mesh_tests::registry::{endpoint, object, service, with};
use serde_json::json;

use super::loads;
use super::outcome::{Goal, Outcome, Path, Sample, Subject};
use super::process::{LOAD_CPU, Running, on, pin, prefer};
use super::rig::{BACKEND, DIALLED, Log, nginx_backend, start_node, virtual_address, wait_for};

/// What a tail takes to show, in times of what a rate takes.
const LONGER: u64 = 4;

fn sample(value: io::Result<f64>) -> io::Result<Sample> {
    Ok(Sample {
        value: value?,
        cpu_micros: None,
    })
}

/// 100 requests a second of one workload, alone and while another sends as many as it can. Who is measured and who answers
/// go before the flood on the processor that they share with it: what is left is what the proxy does.
pub(crate) fn fairness(rounds: usize, millis: u64) -> io::Result<Vec<Outcome>> {
    const ALONE: &str = "alone";
    let folder = tempfile::tempdir()?;
    let Some(node) = start_node(folder.path(), Log::Off)? else {
        return Ok(Vec::new());
    };
    let (modest, greedy, server) = (node.pod("modest"), node.pod("greedy"), node.pod("server"));
    let backend = Running::new(server.spawn(&mut nginx_backend(folder.path())?)?);
    wait_for(&server, (server.v4(), BACKEND).into())?;
    for pod in [&modest, &greedy, &server] {
        pin(pod.pid(), LOAD_CPU)?;
        node.enrol(pod);
    }
    for pid in [modest.pid(), backend.pid()] {
        prefer(pid)?;
    }
    let address = virtual_address(1);
    node.apply(&[
        service("web", &[&address.ip().to_string()], "main", DIALLED, "http"),
        endpoint("web", "web", server.v4(), "main", BACKEND),
    ]);
    let millis = millis * LONGER;
    let tail = || loads::tail(&modest, address, 100, millis);
    let beside = || {
        let mut flood = on(LOAD_CPU, "wrk");
        flood.args([
            "-t1",
            "-c256",
            "-d",
            &format!("{}s", millis.div_ceil(1_000) + 2),
        ]);
        flood.arg(format!("http://{address}/"));
        flood.stdout(std::process::Stdio::null());
        let _flood = Running::new(greedy.spawn(&mut flood)?);
        tail()
    };
    let subject = Subject {
        name: "100 requests a second, 99 in 100",
        unit: "us",
        paths: vec![
            Path::new(ALONE, || sample(tail())),
            Path::new("beside a flood", || sample(beside())).reaching(&[Goal::at_most(2.0, ALONE)]),
        ],
    };
    let outcomes = subject.measure(rounds);
    drop(backend);
    Ok(outcomes)
}

/// Three endpoints, one of which takes 30 ms longer for one request in ten: without hedging, and with it.
pub(crate) fn hedging(rounds: usize, millis: u64) -> io::Result<Vec<Outcome>> {
    const WITHOUT: &str = "without hedging";
    let folder = tempfile::tempdir()?;
    let Some(node) = start_node(folder.path(), Log::Off)? else {
        return Ok(Vec::new());
    };
    let client = node.pod("client");
    node.enrol(&client);
    let servers = ["one", "two", "three"].map(|name| node.pod(name));
    for (server, millis) in servers.iter().zip([0, 0, 30]) {
        let hiccup = ServerKind::Hiccup {
            name: server.name().to_owned(),
            every: 10,
            millis,
        };
        server.serve(hiccup, BACKEND);
    }
    for (name, host) in [("plain", 1), ("hedged", 2)] {
        let address = virtual_address(host).ip().to_string();
        let wanted = service(name, &[&address], "main", DIALLED, "http");
        node.apply(&[with(wanted, &json!({ "mode": "proxy" }))]);
        for server in &servers {
            let place = format!("{name}-{}", server.name());
            node.apply(&[endpoint(&place, name, server.v4(), "main", BACKEND)]);
        }
    }
    let policy = json!({
        "target": { "kind": "Service", "name": "hedged" },
        "hedging": { "after": "p95" },
    });
    let answer = node.api().put(&object("TrafficPolicy", "hedged", &policy));
    if answer.status >= 300 {
        return Err(io::Error::other(answer.body));
    }
    node.settle();
    let tail = |host| {
        let address = virtual_address(host);
        sample(loads::tail(&client, address, 500, millis * LONGER))
    };
    let subject = Subject {
        name: "one slow endpoint in three, 99 in 100",
        unit: "us",
        paths: vec![
            Path::new(WITHOUT, || tail(1)),
            Path::new("hedged after the p95", || tail(2)).reaching(&[Goal::at_most(0.2, WITHOUT)]),
        ],
    };
    Ok(subject.measure(rounds))
}

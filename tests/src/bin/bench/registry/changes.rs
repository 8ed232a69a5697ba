//! Changes at a fixed rate, and when the kernel's map holds each.
//!
//! The time of a change counts from the moment at which its request was due to be sent, so that an agent that lags behind
//! cannot hide behind a client that waits for it, until the entry of its service in `SERVICES`, read from outside the
//! agent, is the one that the change asks for. The map is looked at every 0.2 ms.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, park_timeout};
use std::time::{Duration, Instant};

use mesh_common::address::Address;
use mesh_common::service::{Service, ServiceKey, TCP};
use mesh_tests::api::path_of;
use mesh_tests::eventually::becomes;
use mesh_tests::node::Node;
use mesh_tests::registry::with;
use serde_json::{Value, json};

use super::content::{ENDPOINTS, PORT, Size, address, object};
use super::kernel::Services;
use super::wire::Wire;

/// Changes a second.
pub(super) const RATE: u32 = 100;
/// Places in which services come and go and not endpoints.
const OF_SERVICES: u32 = 8;
/// Connections that send: each has its own places, because a place changes in order.
const SENDERS: u32 = 4;
/// Between two looks at the map.
const LOOK: Duration = Duration::from_micros(200);
/// What one change may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// Where changes are made, in turn.
pub(super) struct Changes {
    places: Vec<Place>,
    map: Services,
    /// Changes that were made.
    made: u32,
}

/// What came of a run.
#[derive(Default)]
pub(super) struct Report {
    /// From due to in the kernel's map, in nanoseconds, sorted.
    pub(super) programmed: Vec<u64>,
    /// From due to the answer, in nanoseconds, sorted.
    pub(super) answered: Vec<u64>,
    /// How long the run took.
    pub(super) elapsed: Duration,
}

/// A service that changes.
struct Place {
    key: ServiceKey,
    namespace: String,
    /// The endpoint that comes and goes, or the service.
    object: Value,
    is_service: bool,
    waits: Mutex<Option<(Instant, Expected)>>,
}

/// What the map has to show.
#[derive(Clone, Copy)]
enum Expected {
    Slots(u32),
    Present,
    Absent,
}

/// One request.
struct Step {
    method: &'static str,
    path: String,
    body: String,
    expected: Expected,
}

impl Changes {
    /// Finds the places of a node that has the whole registry.
    pub(super) fn new(node: &Node, size: &Size) -> io::Result<Self> {
        let mut places = Vec::new();
        for place in 0..size.places - OF_SERVICES {
            let (namespace, service) = size.service(size.plain(place));
            let shown = node.api().get(&format!(
                "/api/v1/namespaces/{namespace}/services/{service}"
            ));
            let virtual_address =
                ipv4(&shown).ok_or_else(|| io::Error::other("a service has no address"))?;
            let name = format!("{service}-more");
            let id = format!("service:{name}");
            let spec = json!({
                "service": service,
                "address": address(size.endpoints() + place),
                "port": PORT,
                "weight": 1,
                "checks": [{ "id": id, "ttl": "1h", "initialStatus": "passing" }],
            });
            places.push(Place {
                object: object("Endpoint", (&namespace, &name), &json!({}), &spec),
                key: key(virtual_address),
                namespace,
                is_service: false,
                waits: Mutex::default(),
            });
        }
        for place in 0..OF_SERVICES {
            let own = address(size.endpoints() + size.places + place);
            let ports = json!([{ "name": "main", "port": PORT, "protocol": "tcp" }]);
            let spec = json!({ "addresses": [own], "ports": ports });
            let (namespace, _) = size.service(0);
            let name = format!("more-{place}");
            places.push(Place {
                object: object("Service", (&namespace, &name), &json!({}), &spec),
                key: key(own),
                namespace,
                is_service: true,
                waits: Mutex::default(),
            });
        }
        Ok(Self {
            places,
            map: Services::open(node.pin_dir())?,
            made: 0,
        })
    }

    /// The services whose endpoints come and go, each with its namespace.
    pub(super) fn services(&self) -> Vec<(String, String)> {
        let places = self.places.iter().filter(|place| !place.is_service);
        let named = places.map(|place| {
            let service = place.object.pointer("/spec/service");
            let service = service.and_then(Value::as_str).unwrap_or_default();
            (place.namespace.clone(), service.to_owned())
        });
        named.collect()
    }

    /// Makes changes for a while, and waits until the kernel has the last one.
    pub(super) fn run(&mut self, node: &Node, duration: Duration) -> io::Result<Report> {
        let count = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX) / 1_000 * RATE;
        let numbers = self.made..self.made + count;
        self.made = numbers.end;
        let is_over = AtomicBool::new(false);
        let started = Instant::now();
        let this = &*self;
        let (sent, seen) = thread::scope(|scope| {
            let watcher = scope.spawn(|| this.watch(&is_over));
            let senders: Vec<_> = (0..SENDERS)
                .map(|sender| {
                    let own: Vec<u32> = (numbers.clone())
                        .filter(|number| number % SENDERS == sender)
                        .collect();
                    let first = numbers.start;
                    scope.spawn(move || this.send(node, &own, (first, started)))
                })
                .collect();
            // Joined in a second pass: all of them run at once.
            let mut sent = Vec::with_capacity(senders.len());
            for sender in senders {
                sent.push(join(sender));
            }
            let is_seen = becomes(DEADLINE, || this.places.iter().all(Place::is_at_rest));
            is_over.store(true, Ordering::Relaxed);
            let seen = join(watcher);
            let late = || io::Error::other("the kernel does not get to know a change");
            (sent, if is_seen { seen } else { Err(late()) })
        });
        let mut report = Report {
            programmed: seen?,
            elapsed: started.elapsed(),
            ..Report::default()
        };
        for sent in sent {
            report.answered.extend(sent?);
        }
        report.programmed.sort_unstable();
        report.answered.sort_unstable();
        Ok(report)
    }

    fn send(
        &self,
        node: &Node,
        numbers: &[u32],
        (first, started): (u32, Instant),
    ) -> io::Result<Vec<u64>> {
        let work = || {
            let mut wire = Wire::open()?;
            let mut answered = Vec::new();
            for number in numbers {
                let due = started + Duration::from_secs(1) * (number - first) / RATE;
                while let Some(left) = due.checked_duration_since(Instant::now()) {
                    park_timeout(left);
                }
                let count = u32::try_from(self.places.len()).map_err(io::Error::other)?;
                let index = usize::try_from(number % count).map_err(io::Error::other)?;
                let Some(place) = self.places.get(index) else {
                    continue;
                };
                if !place.is_at_rest() && !becomes(DEADLINE, || place.is_at_rest()) {
                    return Err(io::Error::other("the kernel does not get to know a change"));
                }
                let step = place.step(number / count);
                *place.waits() = Some((due, step.expected));
                wire.call(step.method, &step.path, &step.body)
                    .inspect_err(|_| *place.waits() = None)?;
                answered.push(nanos(due.elapsed()));
            }
            Ok(answered)
        };
        node.netns().run(work)
    }

    /// Looks at the map until everything was sent, and returns when each change was there.
    fn watch(&self, is_over: &AtomicBool) -> io::Result<Vec<u64>> {
        let mut seen = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            for place in &self.places {
                let mut waits = place.waits();
                let Some((due, expected)) = *waits else {
                    continue;
                };
                if expected.is_shown(self.map.get(&place.key)?.as_ref()) {
                    seen.push(nanos(due.elapsed()));
                    *waits = None;
                }
            }
            park_timeout(LOOK);
        }
        Ok(seen)
    }
}

impl Place {
    fn waits(&self) -> MutexGuard<'_, Option<(Instant, Expected)>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the kernel has all that was asked for here.
    fn is_at_rest(&self) -> bool {
        self.waits().is_none()
    }

    /// The `turn`th change of this place: an endpoint is registered, gets twice its weight, fails, comes back and is
    /// deregistered; a service comes and goes.
    fn step(&self, turn: u32) -> Step {
        let path = path_of(&self.object);
        let put = |object: &Value, expected| Step {
            method: "PUT",
            path: path.clone(),
            body: object.to_string(),
            expected,
        };
        let delete = |expected| Step {
            method: "DELETE",
            path: path.clone(),
            body: String::new(),
            expected,
        };
        let beat = |word: &str, expected| {
            let id = self.object.pointer("/spec/checks/0/id");
            let id = id.and_then(Value::as_str).unwrap_or_default();
            Step {
                method: "PUT",
                path: format!("/v1/agent/check/{word}/{id}?ns={}", self.namespace),
                body: String::new(),
                expected,
            }
        };
        if self.is_service {
            return match turn % 2 {
                0 => put(&self.object, Expected::Present),
                _ => delete(Expected::Absent),
            };
        }
        match turn % 5 {
            0 => put(&self.object, Expected::Slots(ENDPOINTS + 1)),
            1 => {
                let heavy = with(self.object.clone(), &json!({ "weight": 2 }));
                put(&heavy, Expected::Slots(ENDPOINTS + 2))
            }
            2 => beat("fail", Expected::Slots(ENDPOINTS)),
            3 => beat("pass", Expected::Slots(ENDPOINTS + 2)),
            _ => delete(Expected::Slots(ENDPOINTS)),
        }
    }
}

impl Expected {
    fn is_shown(self, entry: Option<&Service>) -> bool {
        match self {
            Self::Slots(count) => entry.is_some_and(|entry| entry.slots_v4 == count),
            Self::Present => entry.is_some(),
            Self::Absent => entry.is_none(),
        }
    }
}

fn ipv4(service: &Value) -> Option<Ipv4Addr> {
    let all = service.pointer("/status/addresses")?.as_array()?;
    let mut texts = all.iter().filter_map(Value::as_str);
    texts.find_map(|text| text.parse().ok())
}

fn key(address: Ipv4Addr) -> ServiceKey {
    ServiceKey {
        address: Address::v4(u32::from_ne_bytes(address.octets())),
        port: PORT,
        protocol: TCP,
        padding: 0,
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What `hundredths` in 100 of the sorted values are at most, in milliseconds.
pub(super) fn quantile(values: &[u64], hundredths: usize) -> f64 {
    let value = values.get(values.len() * hundredths / 100);
    let value = value.or_else(|| values.last()).copied();
    value.map_or(f64::NAN, |it| crate::outcome::to_float(it) / 1e6)
}

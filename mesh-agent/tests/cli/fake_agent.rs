//! An agent's API in a hundred lines: keeps objects by path and enrols every workload at once.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use mesh_agent::state::report::Status;
use serde_json::{Value, json};

/// Listens until it is dropped.
pub(crate) struct FakeAgent {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    objects: Mutex<BTreeMap<String, Value>>,
    refuses_workloads: AtomicBool,
    is_stopped: AtomicBool,
    /// Whether it takes connections, and answers none.
    hangs: AtomicBool,
    /// Those that it has not answered.
    held: Mutex<Vec<TcpStream>>,
    /// More of its status.
    about: Mutex<Status>,
}

impl FakeAgent {
    pub(crate) fn start(cgroup: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            objects: Mutex::default(),
            refuses_workloads: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            held: Mutex::default(),
            about: Mutex::new(Status {
                cgroup: cgroup.display().to_string(),
                ready: true,
                ..Status::default()
            }),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.is_stopped.load(Ordering::SeqCst) {
                        break;
                    }
                    if shared.hangs.load(Ordering::SeqCst) {
                        lock(&shared.held).push(stream);
                    } else {
                        shared.serve(stream);
                    }
                }
            })
        };
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn refuse_workloads(&self) {
        self.shared.refuses_workloads.store(true, Ordering::SeqCst);
    }

    /// From now on it answers nobody.
    pub(crate) fn hang(&self) {
        self.shared.hangs.store(true, Ordering::SeqCst);
    }

    /// How many it has not answered.
    pub(crate) fn held(&self) -> usize {
        lock(&self.shared.held).len()
    }

    /// Changes what it says of itself.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.shared.about));
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.shared.objects().get(path).cloned()
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.shared.objects().insert(path.to_owned(), object);
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::SeqCst);
        // Wakes the thread up.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        lock(&self.objects)
    }

    fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).expect("a request");
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return;
        };
        let mut length = 0;
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).expect("a header");
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("a body");
        let (status, answer) = self.answer(&method, &path, &body);
        let answer = answer.to_string();
        let length = answer.len();
        let text = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}"
        );
        stream
            .get_mut()
            .write_all(text.as_bytes())
            .expect("it takes it");
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> (&'static str, Value) {
        let missing = (
            "404 Not Found",
            json!({"status": 404, "detail": "there is none"}),
        );
        let mut objects = self.objects();
        match method {
            "GET" if path == "/api/v1/status" => ("200 OK", self.status()),
            "GET" if path.matches('/').count() == 3 => {
                let kind = format!("{}/", path.trim_start_matches("/api/v1"));
                let items = objects.iter().filter(|(path, _)| path.contains(&kind));
                let items: Vec<&Value> = items.map(|(_, object)| object).collect();
                (
                    "200 OK",
                    json!({"items": items, "metadata": {"resourceVersion": "1"}}),
                )
            }
            "GET" => objects
                .get(path)
                .map_or(missing, |object| ("200 OK", object.clone())),
            "PUT" => {
                let mut object: Value = serde_json::from_slice(body).expect("JSON");
                if is_taken(&objects, path, &object) {
                    let detail = json!({"detail": "it is taken", "field": "spec.addresses[0]"});
                    return ("422 Unprocessable Entity", detail);
                }
                if path.contains("/workloads/") {
                    object["status"] = json!({"conditions": [self.enrolled()]});
                }
                let replaced = objects.insert(path.to_owned(), object);
                let status = if replaced.is_some() {
                    "200 OK"
                } else {
                    "201 Created"
                };
                (status, json!({}))
            }
            "DELETE" => objects
                .remove(path)
                .map_or(missing, |object| ("200 OK", object)),
            _ => ("405 Method Not Allowed", json!({"detail": "no"})),
        }
    }

    fn enrolled(&self) -> Value {
        if self.refuses_workloads.load(Ordering::SeqCst) {
            json!({"type": "Accepted", "status": "False", "reason": "Refused", "message": "no listeners"})
        } else {
            json!({"type": "Enrolled", "status": "True", "reason": "Enrolled"})
        }
    }

    fn status(&self) -> Value {
        serde_json::to_value(&*lock(&self.about)).expect("it can be written")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether another workload has one of the addresses.
fn is_taken(objects: &BTreeMap<String, Value>, path: &str, object: &Value) -> bool {
    let addresses = object["spec"]["addresses"].as_array();
    let mut others = objects
        .iter()
        .filter(|(other, _)| other.contains("/workloads/") && *other != path);
    path.contains("/workloads/")
        && others.any(|(_, other)| {
            let theirs = other["spec"]["addresses"].as_array();
            addresses
                .into_iter()
                .flatten()
                .any(|address| theirs.is_some_and(|theirs| theirs.contains(address)))
        })
}

//! Node: a network namespace that forwards between pods, a hooked cgroup, and an agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::{Agent, Flags, START};
use crate::api::{ADDRESS, Api, METRICS};
use crate::cgroup::Cgroup;
use crate::eventually::{DEADLINE, eventually};
use crate::leftovers::PREFIX;
use crate::metrics::Metrics;
use crate::netns::NetNs;
use crate::pod::{Place, Pod, enter};
use crate::registry::{NAMESPACE, object, with};
use crate::requirements;

/// A node. Everything it is made of goes when it is dropped; drop its pods before.
#[derive(Debug)]
pub struct Node {
    agent: Option<Agent>,
    flags: Flags,
    name: String,
    pods: AtomicU32,
    outside: Cgroup,
    hooked: Cgroup,
    netns: Arc<NetNs>,
    state: TempDir,
    // Removed last: the cgroups above are inside.
    _cgroup: Cgroup,
}

impl Node {
    /// A node whose agent is ready. `None`, after saying why, where nodes cannot be made.
    #[must_use]
    #[track_caller]
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with more flags for the agent.
    #[must_use]
    #[track_caller]
    pub fn start_with(flags: &[&str]) -> Option<Self> {
        if !requirements::met(true) {
            return None;
        }
        let mut node = Self::make();
        node.flags.more = flags.iter().map(|flag| (*flag).to_owned()).collect();
        node.start_agent();
        Some(node)
    }

    /// A node on which no agent runs.
    #[must_use]
    #[track_caller]
    pub fn without_agent() -> Option<Self> {
        requirements::met(false).then(Self::make)
    }

    /// The same, for agents with more flags that are started later.
    #[must_use]
    #[track_caller]
    pub fn without_agent_yet(flags: &[&str]) -> Option<Self> {
        let mut node = requirements::met(true).then(Self::make)?;
        node.flags.more = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Some(node)
    }

    /// Leaves the first addresses of pods to other nodes.
    pub fn skip_pods(&self, count: u32) {
        self.pods.fetch_add(count, Ordering::Relaxed);
    }

    #[track_caller]
    fn make() -> Self {
        static NODES: AtomicU32 = AtomicU32::new(0);
        let number = NODES.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let netns = NetNs::new(format!("{name}-node"));
        netns.set(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // Else a new link finds no neighbours for whom it forwards until its own address has been tried for two seconds.
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            // Every unroutable packet is told about, however many there are.
            ("net/ipv4/icmp_ratelimit", "0"),
        ]);
        let cgroup = Cgroup::new(&name);
        let state = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir();
        let state = state.expect("a folder for the state");
        let hooked = cgroup.child("hooked");
        let flags = Flags {
            cgroup: hooked.path().to_owned(),
            pin_dir: PathBuf::from("/sys/fs/bpf").join(&name),
            state_dir: state.path().to_owned(),
            more: Vec::new(),
        };
        Self {
            agent: None,
            flags,
            name,
            pods: AtomicU32::new(0),
            outside: cgroup.child("outside"),
            hooked,
            netns: Arc::new(netns),
            state,
            _cgroup: cgroup,
        }
    }

    /// A pod with a network namespace of its own, in a cgroup below the hooked one.
    #[must_use]
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod {
        self.pod_in(name, self.hooked.child(&format!("pod-{name}")))
    }

    /// A pod whose processes are not below the hooked cgroup.
    #[must_use]
    #[track_caller]
    pub fn pod_outside(&self, name: &str) -> Pod {
        self.pod_in(name, self.outside.child(&format!("pod-{name}")))
    }

    /// Processes in the node's own namespace, in a cgroup below the hooked one.
    #[must_use]
    #[track_caller]
    pub fn host_pod(&self, name: &str, neighbour: &Pod) -> Pod {
        let gateway = |address| match address {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                IpAddr::from([a, b, c, 1])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 1])
            }
        };
        Pod::new(Place {
            name: name.to_owned(),
            v4: gateway(neighbour.v4()),
            v6: gateway(neighbour.v6()),
            cgroup: self.hooked.child(&format!("host-{name}")),
            netns: Arc::clone(&self.netns),
        })
    }

    #[track_caller]
    fn pod_in(&self, name: &str, cgroup: Cgroup) -> Pod {
        let number = u8::try_from(self.pods.fetch_add(1, Ordering::Relaxed) + 1).expect("few pods");
        let netns = NetNs::new(format!("{}-{name}", self.name));
        let v4 = |host| Ipv4Addr::new(10, 77, number, host);
        let v6 = |host| Ipv6Addr::new(0xfd77, 0, 0, u16::from(number), 0, 0, 0, host);
        self.netns.ip_batch(&format!(
            "link add pod{number} type veth peer name eth0 netns {}\n\
             addr add {}/24 dev pod{number}\n\
             addr add {}/64 dev pod{number} nodad\n\
             link set pod{number} up\n",
            netns.name(),
            v4(1),
            v6(1),
        ));
        netns.ip_batch(&format!(
            "addr add {}/24 dev eth0\n\
             addr add {}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {}\n\
             route add ::/0 via {}\n",
            v4(2),
            v6(2),
            v4(1),
            v6(1),
        ));
        Pod::new(Place {
            name: name.to_owned(),
            v4: v4(2).into(),
            v6: v6(2).into(),
            cgroup,
            netns: Arc::new(netns),
        })
    }

    /// Starts a program in a pod's namespace, but outside the hooked cgroup: the mesh does not see its sockets. It is
    /// killed with the node.
    #[track_caller]
    pub fn spawn_beside(&self, pod: &Pod, command: &mut Command) -> std::io::Result<Child> {
        enter(command, pod.netns(), &self.outside);
        command.stdin(std::process::Stdio::null()).spawn()
    }

    /// Spreads packets over all processors in every namespace of the test.
    #[track_caller]
    pub fn spread_packets(&self, pods: &[&Pod]) {
        self.netns.spread_packets();
        for pod in pods {
            pod.netns().spread_packets();
        }
    }

    /// The agent.
    #[track_caller]
    pub fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().expect("an agent runs")
    }

    /// Starts the agent, and waits until it is ready.
    #[track_caller]
    pub fn start_agent(&mut self) {
        self.start_agent_within(START);
    }

    /// The same, where that may take longer than usual.
    #[track_caller]
    pub fn start_agent_within(&mut self, deadline: Duration) {
        self.start_agent_unready();
        let api = Api::new(&self.netns);
        let agent = self.agent.as_mut().expect("it was just started");
        agent.wait_ready(deadline, || {
            api.try_call("GET", "/readyz", &Value::Null)
                .is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Starts the agent, and does not wait for anything.
    #[track_caller]
    pub fn start_agent_unready(&mut self) {
        let start = |command: &mut Command| enter(command, &self.netns, &self.outside);
        self.agent = Some(Agent::start(&self.flags, start));
    }

    /// More flags for the agents that are started from now on, in place of those before.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags.more = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Kills the agent and starts another one on what it left.
    #[track_caller]
    pub fn restart_agent(&mut self) {
        self.agent().kill();
        self.start_agent();
    }

    /// A command of the agent's program on this node, for example `status`.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(requirements::agent());
        command
            .args(arguments)
            .env("MESH_CGROUP", &self.flags.cgroup)
            .env("MESH_PIN_DIR", &self.flags.pin_dir)
            .env("MESH_STATE_DIR", &self.flags.state_dir)
            .env("MESH_API", ADDRESS.to_string());
        enter(&mut command, &self.netns, &self.outside);
        command
    }

    /// The agent's API.
    #[must_use]
    pub fn api(&self) -> Api<'_> {
        Api::new(&self.netns)
    }

    /// The agent's metrics, from their own listener.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let request = Request::get("/metrics")
            .header("host", METRICS.to_string())
            .body(Full::default())
            .expect("a request");
        let answer = self.api().send(METRICS, request).expect("metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        Metrics::new(answer.body)
    }

    /// Enrols a pod as a workload of its name, and waits until it is.
    #[track_caller]
    pub fn enrol(&self, pod: &Pod) {
        self.enrol_with(pod, &json!({}));
    }

    /// The same with more fields.
    #[track_caller]
    pub fn enrol_with(&self, pod: &Pod, fields: &Value) {
        let spec = if pod.netns().name() == self.netns.name() {
            json!({ "cgroup": pod.cgroup(), "serviceAccount": pod.name() })
        } else {
            json!({
                "netns": pod.netns().path(),
                "addresses": [pod.v4(), pod.v6()],
                "serviceAccount": pod.name(),
            })
        };
        let workload = with(object("Workload", pod.name(), &spec), fields);
        self.api().apply(&workload);
        let path = format!("/api/v1/namespaces/{NAMESPACE}/workloads/{}", pod.name());
        eventually(&format!("{} is enrolled", pod.name()), DEADLINE, || {
            has_condition(&self.api().get(&path), "Enrolled").then_some(())
        });
        self.settle();
    }

    /// Puts objects, and waits until the kernel knows them.
    #[track_caller]
    pub fn apply(&self, objects: &[Value]) {
        for object in objects {
            self.api().apply(object);
        }
        self.settle();
    }

    /// Deletes an object, and waits until the kernel knows.
    #[track_caller]
    pub fn delete(&self, object: &Value) {
        self.api().delete(object);
        self.settle();
    }

    /// Waits until kernel and proxy know what the registry knows.
    #[track_caller]
    pub fn settle(&self) {
        eventually("kernel and proxy know the registry", DEADLINE, || {
            let status = self.api().get("/api/v1/status");
            let revision = |name: &str| status[name].as_u64();
            (revision("programmedRevision")? >= revision("revision")?).then_some(())
        });
    }

    /// The hooked cgroup.
    #[must_use]
    pub fn hooked(&self) -> &Cgroup {
        &self.hooked
    }

    /// Where maps and links are pinned.
    #[must_use]
    pub const fn pin_dir(&self) -> &PathBuf {
        &self.flags.pin_dir
    }

    /// The agent's namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Where the registry is kept.
    #[must_use]
    pub fn state_dir(&self) -> &std::path::Path {
        self.state.path()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.agent.take());
        // Pins keep programs attached; the cgroup goes afterwards.
        drop(std::fs::remove_dir_all(&self.flags.pin_dir));
    }
}

/// Whether a condition of an object is true.
#[must_use]
pub fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    })
}

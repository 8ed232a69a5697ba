//! The network namespaces of the workloads: what the agent keeps in each.
//!
//! The hook that checks what arrives and the listeners stand apart. Where one of them cannot be, the other is there
//! nevertheless, and what is missing is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use mesh_common::service::{ListenerKey, Role};
use tracing::warn;

use crate::dns::Dns;
use crate::ebpf::{Datapath, Error as DatapathError};
use crate::net::netns::Netns;
use crate::proxy::Proxy;

use super::obstacle::Obstacle;

/// The namespaces in which the agent is, or should be. All of them are known by their cookies.
pub(super) struct Namespaces {
    datapath: Arc<Datapath>,
    proxy: Arc<Proxy>,
    /// Answers questions for names, unless that is switched off.
    dns: Option<Arc<Dns>>,
    /// The agent's own.
    host: Arc<Netns>,
    /// Those of workloads.
    open: BTreeMap<u64, Arc<Netns>>,
    /// What arrives there is checked, maybe by the program of an earlier agent.
    hooked: BTreeSet<u64>,
    /// The same, by the program of this agent.
    current: BTreeSet<u64>,
    /// The proxy listens there.
    listening: BTreeSet<u64>,
    /// Questions for names are answered there.
    answering: BTreeSet<u64>,
}

impl Namespaces {
    pub(super) fn new(
        datapath: Arc<Datapath>,
        proxy: Arc<Proxy>,
        dns: Option<Arc<Dns>>,
        host: Arc<Netns>,
    ) -> Self {
        let names = datapath.attached_netns().unwrap_or_default();
        Self {
            datapath,
            proxy,
            dns,
            host,
            open: BTreeMap::new(),
            hooked: names.iter().filter_map(|name| name.parse().ok()).collect(),
            current: BTreeSet::new(),
            listening: BTreeSet::new(),
            answering: BTreeSet::new(),
        }
    }

    /// The agent's own.
    pub(super) const fn host(&self) -> &Arc<Netns> {
        &self.host
    }

    /// Whether questions for names are answered, where that is possible.
    pub(super) const fn answers_names(&self) -> bool {
        self.dns.is_some()
    }

    /// The namespace of a workload.
    pub(super) fn open(&mut self, path: &Path) -> Result<Arc<Netns>, Obstacle> {
        let failed = |source| Obstacle::Open {
            path: path.to_owned(),
            source,
        };
        let inode = fs::metadata(path).map_err(failed)?.ino();
        if let Some(netns) = self.open.values().find(|netns| netns.inode() == inode) {
            return Ok(Arc::clone(netns));
        }
        let netns = Arc::new(Netns::open(path).map_err(failed)?);
        if netns.cookie() == self.host.cookie() {
            return Err(Obstacle::OwnNamespace {
                path: path.to_owned(),
            });
        }
        self.open.insert(netns.cookie(), Arc::clone(&netns));
        Ok(netns)
    }

    /// Hooks a namespace and listens there, as far as that is not done. `path` is how people know it.
    pub(super) fn serve(&mut self, netns: &Arc<Netns>, path: &Path) -> Result<(), Obstacle> {
        let hooked = self.hook(netns);
        let listening = self.listen(netns, path);
        hooked.map_err(|source| Obstacle::Hook {
            path: path.to_owned(),
            source,
        })?;
        listening
    }

    fn hook(&mut self, netns: &Netns) -> Result<(), DatapathError> {
        let cookie = netns.cookie();
        if self.current.contains(&cookie) {
            return Ok(());
        }
        self.datapath
            .attach_netns(&cookie.to_string(), netns.as_fd())?;
        self.hooked.insert(cookie);
        self.current.insert(cookie);
        Ok(())
    }

    fn listen(&mut self, netns: &Arc<Netns>, path: &Path) -> Result<(), Obstacle> {
        let cookie = netns.cookie();
        if self.listening.contains(&cookie) {
            return Ok(());
        }
        let listeners = self.proxy.listen(Arc::clone(netns));
        let listeners = listeners.map_err(|source| Obstacle::Listen {
            path: path.to_owned(),
            source,
        })?;
        self.listening.insert(cookie);
        self.announce(cookie, Role::Outbound, &[listeners.v4, listeners.v6], path)
    }

    /// Answers questions for names in a namespace, unless that is done or switched off. Where that cannot be, they go where
    /// they are sent, and the kernel counts them as those of an agent that is absent.
    pub(super) fn answer_names(&mut self, netns: &Arc<Netns>, path: &Path) -> Result<(), Obstacle> {
        let cookie = netns.cookie();
        let Some(dns) = &self.dns else {
            return Ok(());
        };
        if self.answering.contains(&cookie) {
            return Ok(());
        }
        let listeners = dns.listen(Arc::clone(netns));
        let listeners = listeners.map_err(|source| Obstacle::Answer {
            path: path.to_owned(),
            source,
        })?;
        self.answering.insert(cookie);
        self.announce(cookie, Role::Resolver, &[listeners.v4, listeners.v6], path)
    }

    /// Tells the kernel of the listeners in a namespace, over IPv4 and IPv6. Closes them where it does not take them.
    fn announce(
        &mut self,
        netns: u64,
        role: Role,
        listeners: &[Option<OwnedFd>; 2],
        path: &Path,
    ) -> Result<(), Obstacle> {
        for (family, socket) in [4, 6].into_iter().zip(listeners) {
            if let Some(socket) = socket {
                let key = ListenerKey {
                    netns,
                    family,
                    role: role as u32,
                };
                if let Err(source) = self.datapath.add_listener(key, socket.as_fd()) {
                    self.close(netns, role);
                    let path = path.to_owned();
                    return Err(Obstacle::Hook { path, source });
                }
            }
        }
        Ok(())
    }

    /// Takes every listener out of the kernel.
    pub(super) fn withdraw(&self) {
        for cookie in &self.listening {
            self.forget_listeners(*cookie, Role::Outbound);
        }
        for cookie in &self.answering {
            self.forget_listeners(*cookie, Role::Resolver);
        }
    }

    /// Takes down what is in none of the namespaces `needed`.
    pub(super) fn leave(&mut self, needed: &BTreeSet<u64>) {
        let is_gone = |cookie: &&u64| !needed.contains(cookie);
        let proxies = self.listening.iter().filter(is_gone);
        let resolvers = self.answering.iter().filter(is_gone);
        let closing: Vec<(u64, Role)> = proxies
            .map(|cookie| (*cookie, Role::Outbound))
            .chain(resolvers.map(|cookie| (*cookie, Role::Resolver)))
            .collect();
        for (cookie, role) in closing {
            self.close(cookie, role);
        }
        for cookie in self.hooked.iter().filter(is_gone) {
            self.unhook(*cookie);
        }
        self.hooked.retain(|cookie| needed.contains(cookie));
        self.current.retain(|cookie| needed.contains(cookie));
        self.open.retain(|cookie, _| needed.contains(cookie));
    }

    fn close(&mut self, cookie: u64, role: Role) {
        self.forget_listeners(cookie, role);
        match role {
            Role::Outbound => {
                self.listening.remove(&cookie);
                self.proxy.unlisten(cookie);
            }
            Role::Resolver => {
                self.answering.remove(&cookie);
                if let Some(dns) = &self.dns {
                    dns.unlisten(cookie);
                }
            }
        }
    }

    fn forget_listeners(&self, cookie: u64, role: Role) {
        for family in [4, 6] {
            let key = ListenerKey {
                netns: cookie,
                family,
                role: role as u32,
            };
            if let Err(error) = self.datapath.remove_listener(key) {
                warn!(
                    error = crate::app::describe(&error),
                    "cannot take a listener out of the kernel"
                );
            }
        }
    }

    fn unhook(&self, cookie: u64) {
        if let Err(error) = self.datapath.detach_netns(&cookie.to_string()) {
            warn!(
                error = crate::app::describe(&error),
                "cannot unhook a network namespace"
            );
        }
    }
}

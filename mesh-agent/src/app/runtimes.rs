//! The agent's own threads: what is neither traffic nor the answer to a name.

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::dns::Dns;
use crate::proxy::Proxy;

use super::SHUTDOWN;

/// One runtime for the API and one for everything else, so that a flood of questions delays no heartbeat.
pub(super) struct Runtimes {
    control: Runtime,
    api: Runtime,
}

impl Runtimes {
    pub(super) fn start() -> Result<Self> {
        Ok(Self {
            control: start("control")?,
            api: start("api")?,
        })
    }

    /// Where everything runs that has no place of its own.
    pub(super) const fn control(&self) -> &Runtime {
        &self.control
    }

    /// Where the API answers.
    pub(super) fn api(&self) -> &Handle {
        self.api.handle()
    }

    /// Every runtime of the agent, with its name.
    pub(super) fn all(&self, proxy: &Proxy, dns: Option<&Dns>) -> Vec<(String, Handle)> {
        let mut runtimes = proxy.runtimes();
        let own = [("control", &self.control), ("api", &self.api)];
        runtimes.extend(own.map(|(name, runtime)| (name.to_owned(), runtime.handle().clone())));
        let names = dns.and_then(Dns::runtime);
        runtimes.extend(names.map(|runtime| ("dns".to_owned(), runtime)));
        runtimes
    }

    /// Ends what runs, and waits a while for threads that block.
    pub(super) fn stop(self) {
        self.api.shutdown_timeout(SHUTDOWN);
        self.control.shutdown_timeout(SHUTDOWN);
    }
}

/// One thread: two that wake one another would take both processors from the traffic.
fn start(name: &str) -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .with_context(|| format!("cannot start the runtime {name}"))
}

//! `exec`: runs a command as a workload of the mesh, registered while it runs.
//!
//! The workload is enrolled before the command starts, and the command starts inside its cgroup: no connection of it is
//! ever outside of the mesh. Whatever happens, what was made is removed again.

mod address;
mod cgroup;
mod child;
mod error;
mod listening;
mod patience;
mod plan;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{self, Instant};

use self::cgroup::Cgroup;
use self::child::{Child, Signals};
use self::patience::Patience;
use self::plan::Plan;
use super::client::{Client, path_of};
use super::exit::Exit;
use super::{complain, note};
use crate::config::cli;
use crate::state::endpoint::Endpoint;
use crate::state::object::{Kind, ObjectKey};
use crate::state::report::Status;
use crate::state::service::Service;
use crate::state::workload::Workload;

pub use error::Error;

/// Runs the command to its end; its exit code is the process's.
pub(super) async fn exec(exec: cli::Exec) -> Result<Exit, super::Error> {
    let client = Client::new(&exec.target)?;
    // Signals are caught from here on, so that one that comes early does not leave things behind.
    let mut signals = Signals::catch()?;
    let (registration, port_name) = tokio::select! {
        prepared = prepare(client, &exec) => prepared?,
        exit = signals.asked_to_end() => return Ok(exit),
    };
    let cgroup = Cgroup::make(&registration.plan.cgroup)?;

    let ended = registration
        .run(&exec.command, &cgroup, port_name, &mut signals)
        .await;
    let mut patience = Patience::new(&mut signals);
    // What the command has left behind is of the mesh until it has ended.
    patience.wait(registration.withdraw()).await;
    let emptied = cgroup.empty().await.map_err(super::Error::from);
    let removed = patience.wait(registration.remove()).await;
    let removed = removed.unwrap_or_else(|| Err(registration.left_behind()));
    let tidied = cgroup.remove().map_err(super::Error::from);
    // What the command did is the answer; what could not be tidied up is only told.
    for result in [emptied, removed, tidied] {
        if let Err(error) = result {
            complain(&error);
        }
    }
    ended
}

/// Looks whether the command can be a workload of the agent, and under which names.
async fn prepare(
    client: Client,
    exec: &cli::Exec,
) -> Result<(Registration, Option<String>), super::Error> {
    let status: Status = client.get("/api/v1/status").await?;
    refuse_other_namespace(&status)?;
    let address = exec.address.map_or_else(address::first, Ok)?;
    let root = PathBuf::from(status.cgroup);
    let node = status.registry.map(|it| it.node);
    let registration = Registration {
        client,
        plan: Plan::new(exec, &root, std::process::id(), address).on(node),
        may_share_address: exec.address.is_none(),
    };
    registration.refuse_what_belongs_to_others().await?;
    let port_name = registration.ensure_service().await?;
    Ok((registration, port_name))
}

/// By its cgroup the kernel knows a workload only in the agent's network namespace: in another one the command would run
/// outside of the mesh.
fn refuse_other_namespace(status: &Status) -> Result<(), Error> {
    let own = fs::metadata("/proc/self/ns/net").map_err(Error::Watch)?;
    match status.network_namespace {
        Some(agents) if agents != own.ino() => Err(Error::OtherNamespace),
        _ => Ok(()),
    }
}

struct Registration {
    client: Client,
    plan: Plan,
    /// Nobody has asked for the address: the workload can do without one of its own.
    may_share_address: bool,
}

impl Registration {
    /// Enrols, starts, registers the endpoint once the command listens, and waits for the end.
    async fn run(
        &self,
        command: &[std::ffi::OsString],
        cgroup: &Cgroup,
        port_name: Option<String>,
        signals: &mut Signals,
    ) -> Result<Exit, super::Error> {
        tokio::select! {
            enrolled = self.enrol() => enrolled?,
            exit = signals.asked_to_end() => return Ok(exit),
        }
        let mut child = Child::start(command, cgroup.entry()?)?;
        if let Some(port_name) = port_name {
            let registered = tokio::select! {
                exit = child.wait(signals) => return Ok(exit?),
                registered = self.register(&port_name) => registered,
            };
            if let Err(error) = registered {
                child.terminate(signals).await?;
                return Err(error);
            }
        }
        Ok(child.wait(signals).await?)
    }

    /// An object of the same name that `exec` has not made is somebody else's; so is the workload of an `exec` that runs.
    async fn refuse_what_belongs_to_others(&self) -> Result<(), super::Error> {
        let key = &self.plan.key;
        if let Some(workload) = self.find::<Workload>(Kind::Workload, key).await? {
            let cgroup = workload.spec.cgroup.as_ref();
            let is_stale = cgroup.is_some_and(|cgroup| !cgroup.exists());
            if !plan::is_ours(&workload.metadata) || !is_stale {
                let key = key.clone();
                return Err(Error::InUse {
                    kind: Kind::Workload,
                    key,
                }
                .into());
            }
        }
        if self.plan.serves.is_none() {
            return Ok(());
        }
        let key = &self.plan.endpoint_key;
        match self.find::<Endpoint>(Kind::Endpoint, key).await? {
            Some(endpoint) if !self.plan.may_replace(&endpoint.metadata) => {
                let key = key.clone();
                Err(Error::InUse {
                    kind: Kind::Endpoint,
                    key,
                }
                .into())
            }
            _ => Ok(()),
        }
    }

    /// Makes the service if it is not there. Returns the name of the port that the command serves.
    async fn ensure_service(&self) -> Result<Option<String>, super::Error> {
        let Some(serves) = &self.plan.serves else {
            return Ok(None);
        };
        let key = ObjectKey::new(&self.plan.key.namespace, &serves.service);
        if let Some(service) = self.find::<Service>(Kind::Service, &key).await? {
            let port = plan::port_of(&service.spec.ports, serves.port);
            return Ok(Some(port.ok_or(Error::Port {
                service: key,
                port: serves.port,
            })?));
        }
        let service = self.plan.service(serves);
        self.client
            .put(&path(Kind::Service, &key)?, &service)
            .await?;
        Ok(Some(plan::PORT_NAME.to_owned()))
    }

    /// Puts the workload, and waits until the agent has enrolled it.
    async fn enrol(&self) -> Result<(), super::Error> {
        let key = &self.plan.key;
        let path = path(Kind::Workload, key)?;
        self.put_workload(&path).await?;
        let deadline = Instant::now() + ENROL_DEADLINE;
        loop {
            let workload: Workload = self.client.get(&path).await?;
            match plan::enrolment(&workload) {
                plan::Enrolment::Done => return Ok(()),
                plan::Enrolment::Refused(reason) => return Err(Error::Refused { reason }.into()),
                plan::Enrolment::Pending(_) if Instant::now() < deadline => {
                    time::sleep(POLL).await;
                }
                plan::Enrolment::Pending(reason) => {
                    return Err(Error::NotEnrolled { reason }.into());
                }
            }
        }
    }

    /// Commands of the host's namespace share its address, but an address is one workload's only: later ones are known
    /// by their cgroup alone.
    async fn put_workload(&self, path: &str) -> Result<(), super::Error> {
        let mut workload = self.plan.workload();
        match self.client.put(path, &workload).await {
            Err(super::Error::Refused(problem)) if plan::is_about_address(&problem) => {
                if !self.may_share_address {
                    return Err(Error::AddressTaken { problem }.into());
                }
                workload.spec.addresses.clear();
                note(&format!(
                    "{problem}; it is known by its cgroup alone, unless --address gives it one of its own"
                ));
                self.client.put(path, &workload).await?;
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Puts the endpoint, when the command listens or has had time to.
    async fn register(&self, port_name: &str) -> Result<(), super::Error> {
        let Some(serves) = &self.plan.serves else {
            return Ok(());
        };
        let deadline = Instant::now() + LISTEN_DEADLINE;
        while !listening::is_listening(serves.port) && Instant::now() < deadline {
            time::sleep(POLL).await;
        }
        let endpoint = self.plan.endpoint(serves, port_name);
        let path = path(Kind::Endpoint, &self.plan.endpoint_key)?;
        self.client.put(&path, &endpoint).await?;
        Ok(())
    }

    /// Sends nobody to the command any more. Where that fails, [`Self::remove`] tries again and tells.
    async fn withdraw(&self) {
        if self.plan.serves.is_some()
            && let Err(error) = self.delete(Kind::Endpoint, &self.plan.endpoint_key).await
        {
            tracing::debug!(%error, "cannot remove the endpoint yet");
        }
    }

    /// Removes what was registered.
    async fn remove(&self) -> Result<(), super::Error> {
        while_it_restarts(|| self.try_remove()).await
    }

    /// What is told where the agent has not answered in time.
    fn left_behind(&self) -> super::Error {
        let mut objects = format!("{} {}", Kind::Workload, self.plan.key);
        if self.plan.serves.is_some() {
            objects = format!(
                "{} {} and {objects}",
                Kind::Endpoint,
                self.plan.endpoint_key
            );
        }
        Error::LeftBehind { objects }.into()
    }

    /// The endpoint goes before the workload, so that nobody is sent to what is no longer enrolled.
    async fn try_remove(&self) -> Result<(), super::Error> {
        let key = &self.plan.key;
        let endpoint = match self.plan.serves {
            Some(_) => self.delete(Kind::Endpoint, &self.plan.endpoint_key).await,
            None => Ok(()),
        };
        self.delete(Kind::Workload, key).await?;
        endpoint
    }

    async fn delete(&self, kind: Kind, key: &ObjectKey) -> Result<(), super::Error> {
        match self.client.delete(&path(kind, key)?).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    async fn find<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        key: &ObjectKey,
    ) -> Result<Option<T>, super::Error> {
        match self.client.get(&path(kind, key)?).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An agent that is away, or goes while it is asked, may just be restarting, and gets a little time.
async fn while_it_restarts<F>(mut attempt: impl FnMut() -> F) -> Result<(), super::Error>
where
    F: Future<Output = Result<(), super::Error>>,
{
    let deadline = Instant::now() + REMOVE_DEADLINE;
    loop {
        match attempt().await {
            Err(error) if error.is_of_absence() && Instant::now() < deadline => {
                time::sleep(RETRY).await;
            }
            result => return result,
        }
    }
}

fn path(kind: Kind, key: &ObjectKey) -> Result<String, super::Error> {
    path_of(kind.plural(), Some(&key.namespace), Some(&key.name))
}

/// Longer than an agent takes to make its listeners, also a busy one.
const ENROL_DEADLINE: Duration = Duration::from_secs(10);
/// A command that does not listen by then is registered all the same: it may listen in a way that cannot be seen.
const LISTEN_DEADLINE: Duration = Duration::from_secs(2);
/// Longer than an agent takes to restart.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn agent_that_restarts_while_it_is_asked_is_asked_again() {
        let cut = || {
            Err(super::super::Error::Exchange {
                target: "here".to_owned(),
                source: "connection reset".into(),
            })
        };
        let attempts = Cell::new(0);
        let attempt = async || {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 3 { cut() } else { Ok(()) }
        };
        assert!(while_it_restarts(attempt).await.is_ok());
        assert_eq!(attempts.get(), 3);
        let gone = while_it_restarts(async || cut()).await;
        assert!(gone.is_err(), "not for ever");
    }
}

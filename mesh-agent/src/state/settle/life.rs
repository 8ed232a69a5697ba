//! What follows from the life of endpoints: what checks have shown, and whether their service is up.

use std::sync::Arc;

use crate::state::check::{CheckStatus, OBSERVED, shortened};
use crate::state::draft::Draft;
use crate::state::endpoint::{Endpoint, Health, HealthStatus};
use crate::state::life::{Availability, View};
use crate::state::object::ObjectKey;
use crate::state::service::{Service, SettingStatus};
use crate::state::{Manifest, Snapshot};

/// Writes what a check of a registration has shown, if that is new.
pub(in crate::state) fn set_check(
    draft: &mut Draft,
    key: &ObjectKey,
    id: &str,
    status: HealthStatus,
    output: String,
) -> Option<Manifest> {
    let old = draft.next.endpoints.get(key)?;
    if !old.spec.checks.iter().any(|it| it.id == id) {
        return None;
    }
    show(draft, key, id, Some((status, output)))
}

/// The same for what the agent has seen by itself.
pub(in crate::state) fn set_observed(
    draft: &mut Draft,
    key: &ObjectKey,
    health: Option<Health>,
) -> Option<Manifest> {
    show(
        draft,
        key,
        OBSERVED,
        health.map(|it| (it.status, it.output)),
    )
}

fn show(
    draft: &mut Draft,
    key: &ObjectKey,
    id: &str,
    shown: Option<(HealthStatus, String)>,
) -> Option<Manifest> {
    let old = Arc::clone(draft.next.endpoints.get(key)?);
    let before = old.status.checks.iter().find(|it| it.id == id);
    let shown = shown.map(|(status, output)| CheckStatus {
        id: id.to_owned(),
        status,
        output: shortened(output),
        since: before
            .filter(|before| before.status == status)
            .map_or_else(|| draft.now.clone(), |before| before.since.clone()),
    });
    if shown.as_ref() == before {
        return None;
    }
    let mut endpoint = Endpoint::clone(&old);
    endpoint.status.checks.retain(|it| it.id != id);
    endpoint.status.checks.extend(shown);
    endpoint.stand(&draft.now);
    let written = draft.write(endpoint.clone());
    tell_service(draft, Some(&old), Some(&endpoint));
    Some(written)
}

/// Tells the services of an endpoint that came, changed or went, if that may change whether they are up.
pub(super) fn tell_service(draft: &mut Draft, old: Option<&Endpoint>, new: Option<&Endpoint>) {
    let known = |it: &Endpoint| (it.service_key(), it.is_up());
    let (old, new) = (old.map(known), new.map(known));
    if old == new {
        return;
    }
    let mut services: Vec<ObjectKey> = [old, new]
        .into_iter()
        .flatten()
        .map(|(service, _)| service)
        .collect();
    services.dedup();
    for key in services {
        let Some(service) = draft.next.services.get(&key) else {
            continue;
        };
        let view = view_of(&key, &draft.next);
        if service.status.availability.as_ref().map(|it| it.view) == Some(view) {
            continue;
        }
        let mut service = Service::clone(service);
        service.status.availability = Some(Availability {
            view,
            since: draft.now.clone(),
        });
        draft.write(service);
    }
}

/// Fills in what is so with a service that is about to be written. The time of a new view is left empty.
pub(super) fn judge_service(service: &mut Service, snapshot: &Snapshot) {
    let view = view_of(&service.key(), snapshot);
    let known = service.status.availability.as_ref();
    if known.is_none_or(|it| it.view != view) {
        service.status.availability = Some(Availability {
            view,
            since: String::new(),
        });
    }
    let last = snapshot.services.get(&service.key());
    let next = snapshot.revision + 1;
    let settings = service.spec.configuration.iter().map(|(key, value)| {
        let old = last.and_then(|last| {
            let status = last.status.configuration.get(key)?;
            Some((last.spec.configuration.get(key)?, *status))
        });
        let status = match old {
            Some((old, status)) if old == value => status,
            Some((_, status)) => SettingStatus {
                modified: next,
                ..status
            },
            None => SettingStatus {
                created: next,
                modified: next,
            },
        };
        (key.clone(), status)
    });
    service.status.configuration = settings.collect();
}

fn view_of(service: &ObjectKey, snapshot: &Snapshot) -> View {
    let mut endpoints = snapshot.endpoints_of(service);
    if endpoints.any(|it| it.is_up()) {
        View::Up
    } else {
        View::Down
    }
}

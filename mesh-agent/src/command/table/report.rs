//! Tables of what the agent tells about itself.

use comfy_table::Cell;

use super::{NONE, join, number, pairs, render, text, yes_no};
use crate::state::report::{
    BpfReport, BreakerList, Connection, ConnectionList, CoverageList, EndpointExplanation,
    Explanation, RegistryReport, RequestExplanation, SourceReport, Status,
};

pub(in crate::command) fn connections(list: &ConnectionList) -> String {
    let header = [
        "WORKLOAD",
        "SOURCE",
        "DIALLED",
        "DESTINATION",
        "SERVICE",
        "VERDICT",
        "PROTOCOL",
        "SENT",
        "RECEIVED",
        "RTT",
        "RETRANS",
        "ACCEL",
        "STATE",
    ];
    render(&header, list.items.iter().map(connection))
}

fn connection(connection: &Connection) -> Vec<Cell> {
    vec![
        text(&connection.source.workload),
        text(connection.source.address),
        text(connection.original),
        text(connection.destination),
        text(connection.service.as_deref().unwrap_or(NONE)),
        text(&connection.verdict),
        text(&connection.protocol),
        number(size(connection.bytes_sent)),
        number(size(connection.bytes_received)),
        number(format!("{}us", connection.rtt_micros)),
        number(connection.retransmits),
        text(yes_no(connection.accelerated)),
        text(if connection.closed { "closed" } else { "open" }),
    ]
}

pub(in crate::command) fn coverage(list: &CoverageList) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "CAPTURED",
        "DIRECT",
        "PASSED",
        "DENIED",
        "BYPASSED",
        "REASONS",
    ];
    render(
        &header,
        list.items.iter().map(|item| {
            let reasons = item.reasons.iter();
            let reasons = reasons.map(|(reason, count)| format!("{reason}={count}"));
            vec![
                text(&item.namespace),
                text(&item.name),
                number(item.captured),
                number(item.direct),
                number(item.passed),
                number(item.denied),
                number(item.bypassed),
                text(join(reasons)),
            ]
        }),
    )
}

pub(in crate::command) fn breakers(list: &BreakerList) -> String {
    let header = [
        "NAMESPACE",
        "KIND",
        "NAME",
        "RULE",
        "ENDPOINT",
        "STATE",
        "SINCE",
        "OPENINGS",
    ];
    render(
        &header,
        list.items.iter().map(|item| {
            vec![
                text(&item.namespace),
                text(&item.kind),
                text(&item.name),
                text(item.rule.as_deref().unwrap_or(NONE)),
                text(item.endpoint.as_deref().unwrap_or(NONE)),
                text(&item.state),
                text(&item.since),
                number(item.openings),
            ]
        }),
    )
}

pub(in crate::command) fn explanation(explanation: &Explanation) -> String {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| NONE.to_owned());
    let connection = pairs([
        ("Verdict", explanation.verdict.clone()),
        ("Reason", explanation.reason.clone()),
        ("Service", or_none(&explanation.service)),
        ("Mode", or_none(&explanation.mode)),
        ("Policies", join(&explanation.policy)),
        ("Endpoints", join(&explanation.endpoints)),
    ]);
    match &explanation.request {
        Some(asked) => format!("{connection}\n{}", request(asked)),
        None => connection,
    }
}

fn request(asked: &RequestExplanation) -> String {
    let millis =
        |length: Option<u64>| length.map_or_else(|| NONE.to_owned(), |it| format!("{it}ms"));
    let mut shown = pairs([
        ("Path", asked.path.clone()),
        (
            "Rule",
            asked.rule.clone().unwrap_or_else(|| NONE.to_owned()),
        ),
        ("Why", asked.reason.clone()),
        (
            "Status",
            asked
                .status
                .map_or_else(|| NONE.to_owned(), |it| it.to_string()),
        ),
        ("Filters", join(&asked.filters)),
        ("Deadline", millis(asked.request_timeout_millis)),
        ("Per attempt", millis(asked.attempt_timeout_millis)),
        ("Authorization", join(&asked.authorization)),
        ("Traffic policies", join(&asked.policies)),
    ]);
    shown.push_str(&limits(asked));
    if asked.backends.is_empty() {
        return shown;
    }
    let header = [
        "BACKEND",
        "SHARE",
        "FILTERS",
        "TRAFFIC POLICIES",
        "ENDPOINT",
        "ADDRESS",
        "STATE",
    ];
    let rows = asked.backends.iter().flat_map(|backend| {
        let service = match backend.names.as_slice() {
            [] => backend.service.clone(),
            names => format!("{} for {}", backend.service, join(names)),
        };
        let before = [
            text(service),
            number(format!("{}/{}", backend.weight, backend.of)),
            text(join(&backend.filters)),
            text(join(&backend.policies)),
        ];
        let spares = backend.failover.iter().flat_map(|spare| {
            let service = format!("{} takes over", spare.service);
            let before = [text(service), text(NONE), text(NONE), text(NONE)];
            candidates(before, &spare.endpoints, spare.is_missing)
        });
        let own = match backend.status {
            // The proxy answers, and asks no endpoint.
            Some(status) => vec![row(&before, [NONE, NONE, &format!("answers {status}")])],
            None => candidates(before, &backend.endpoints, backend.is_missing),
        };
        own.into_iter().chain(spares)
    });
    shown.push('\n');
    shown.push_str(&render(&header, rows));
    shown
}

/// A row for each endpoint of a service, after what they have in common.
fn candidates(
    before: [Cell; 4],
    endpoints: &[EndpointExplanation],
    is_missing: bool,
) -> Vec<Vec<Cell>> {
    if endpoints.is_empty() {
        let state = if is_missing { "missing" } else { NONE };
        return vec![row(&before, [NONE, NONE, state])];
    }
    let rows = endpoints.iter();
    rows.map(|it| row(&before, [&it.name, &it.address, &it.state]))
        .collect()
}

fn row(before: &[Cell], cells: [&str; 3]) -> Vec<Cell> {
    before.iter().cloned().chain(cells.map(text)).collect()
}

/// What policies say that may refuse, delay or repeat a request.
fn limits(asked: &RequestExplanation) -> String {
    let of_backends = asked.backends.iter().flat_map(|backend| {
        let limits = backend.limits.iter();
        limits.map(|limit| (backend.service.as_str(), limit))
    });
    let limits = asked.limits.iter().map(|limit| (NONE, limit));
    let limits: Vec<_> = limits.chain(of_backends).collect();
    if limits.is_empty() {
        return String::new();
    }
    let header = ["LIMIT", "BACKEND", "POLICY", "SAYS", "STATE"];
    let rows = limits.into_iter().map(|(backend, limit)| {
        vec![
            text(&limit.field),
            text(backend),
            text(limit.policy.as_deref().unwrap_or("the rule")),
            text(&limit.says),
            text(limit.state.as_deref().unwrap_or(NONE)),
        ]
    });
    format!("\n{}", render(&header, rows))
}

pub(in crate::command) fn status(status: &Status) -> String {
    let ready = match (status.ready, status.draining) {
        (_, true) => "draining".to_owned(),
        (true, false) => "yes".to_owned(),
        (false, false) => format!("no, waits for: {}", join(&status.pending)),
    };
    let acceleration = if status.acceleration.enabled {
        "on".to_owned()
    } else {
        format!("off: {}", status.acceleration.reason)
    };
    let programmed = if status.programmed_revision >= status.revision {
        "all in force".to_owned()
    } else {
        format!("{} in force", status.programmed_revision)
    };
    let objects = status.objects.iter();
    let faults = status
        .faults
        .iter()
        .map(|it| format!("{} for {}: {}", it.policy, it.target, it.count));
    let namespace = status.network_namespace;
    let namespace = namespace.map_or_else(|| NONE.to_owned(), |inode| format!("net:[{inode}]"));
    let shown = pairs([
        ("Ready", ready),
        ("Version", status.version.clone()),
        ("Up", format!("{}s", status.uptime_seconds)),
        (
            "Registry",
            format!("revision {}, {programmed}", status.revision),
        ),
        (
            "Objects",
            join(objects.map(|(kind, count)| format!("{kind}={count}"))),
        ),
        ("Cgroup", status.cgroup.clone()),
        ("Pins", status.pin_dir.clone()),
        ("Network namespace", namespace),
        ("Kernel", status.kernel.clone()),
        ("Acceleration", acceleration),
        ("Workers", status.workers.to_string()),
        (
            "Proxied connections",
            status.proxied_connections.to_string(),
        ),
        ("Faults", join(faults)),
        (
            "Shared registry",
            status
                .registry
                .as_ref()
                .map_or_else(|| NONE.to_owned(), shared),
        ),
    ]);
    if status.sources.is_empty() {
        return shown;
    }
    format!("{shown}\n\n{}", sources(&status.sources))
}

/// The sources of objects, and below them what they have that is refused.
fn sources(sources: &[SourceReport]) -> String {
    let header = ["SOURCE", "PLACE", "OBJECTS", "REJECTED", "STATUS"];
    let mut shown = render(
        &header,
        sources.iter().map(|it| {
            vec![
                text(it.source),
                text(&it.place),
                number(it.objects),
                number(it.rejected),
                text(it.error.as_deref().unwrap_or("ok")),
            ]
        }),
    );
    let mut rejections = sources.iter().flat_map(|it| &it.rejections).peekable();
    if rejections.peek().is_some() {
        let rows = rejections.map(|it| vec![text(&it.place), text(&it.object), text(&it.message)]);
        shown.push_str("\n\n");
        shown.push_str(&render(&["REJECTED AT", "OBJECT", "WHY"], rows));
    }
    shown
}

/// How the registry is that several nodes share.
fn shared(registry: &RegistryReport) -> String {
    let state = if registry.connected {
        format!("connected, write {}", registry.revision)
    } else {
        format!(
            "away for {}s: {}",
            registry.staleness_seconds, registry.error
        )
    };
    let mut text = format!("{} as {}, {state}", registry.address, registry.node);
    if registry.queued > 0 {
        text = format!("{text}; {} endpoints queued", registry.queued);
    }
    text
}

pub(in crate::command) fn bpf(report: &BpfReport) -> String {
    let programs = render(
        &["PROGRAM", "ID", "ATTACHED"],
        report.programs.iter().map(|program| {
            vec![
                text(&program.name),
                number(program.id),
                text(&program.attached),
            ]
        }),
    );
    let maps = render(
        &["MAP", "ENTRIES", "CAPACITY", "USED"],
        report.maps.iter().map(|map| {
            let used = (map.entries * 100).checked_div(map.capacity).unwrap_or(0);
            vec![
                text(&map.name),
                number(map.entries),
                number(map.capacity),
                number(format!("{used}%")),
            ]
        }),
    );
    format!("{programs}\n\n{maps}")
}

/// A size in binary units, with at most four digits.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 10 * 1024 {
            return format!("{value}{unit}");
        }
        value /= 1024;
    }
    format!("{value}TiB")
}

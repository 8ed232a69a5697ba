//! Answers as tables. Pure: objects and reports in, text out.

use std::collections::BTreeMap;
use std::fmt::Display;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Row, Table};

use crate::state::endpoint::Endpoint;
use crate::state::object::{Condition, ConditionStatus, Metadata};
use crate::state::policy::AuthorizationPolicy;
use crate::state::report::{
    BpfReport, Connection, ConnectionList, CoverageList, Explanation, Status,
};
use crate::state::service::Service;
use crate::state::workload::Workload;

pub(super) fn services(services: &[Service]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "ADDRESSES",
        "PORTS",
        "MODE",
        "BALANCING",
        "STATUS",
    ];
    render(
        &header,
        services.iter().map(|service| {
            let spec = &service.spec;
            let ports = spec
                .ports
                .iter()
                .map(|port| format!("{}/{}", port.port, lower(port.protocol)));
            let mut row = names(&service.metadata);
            row.extend([
                text(join(&service.status.addresses)),
                text(join(ports)),
                text(lower(spec.mode)),
                text(format!("{:?}", spec.balancing)),
                text(judged(&service.status.conditions)),
            ]);
            row
        }),
    )
}

pub(super) fn endpoints(endpoints: &[Endpoint]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "SERVICE",
        "ADDRESS",
        "PORTS",
        "WEIGHT",
        "VERSION",
        "STATUS",
    ];
    render(
        &header,
        endpoints.iter().map(|endpoint| {
            let spec = &endpoint.spec;
            let ports = spec
                .ports
                .iter()
                .map(|(name, port)| format!("{name}:{port}"));
            let status = if spec.draining {
                "draining".to_owned()
            } else {
                judged(&endpoint.status.conditions)
            };
            let mut row = names(&endpoint.metadata);
            row.extend([
                text(&spec.service),
                text(spec.address),
                text(join(ports)),
                number(spec.weight),
                text(spec.version.as_deref().unwrap_or(NONE)),
                text(status),
            ]);
            row
        }),
    )
}

pub(super) fn workloads(workloads: &[Workload]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "ACCOUNT",
        "ADDRESSES",
        "FAIL",
        "ACCELERATION",
        "FOUND BY",
        "STATUS",
    ];
    render(
        &header,
        workloads.iter().map(|workload| {
            let spec = &workload.spec;
            let found_by = match (&spec.netns, &spec.cgroup) {
                (Some(path), _) => format!("netns {}", path.display()),
                (None, Some(path)) => format!("cgroup {}", path.display()),
                (None, None) => NONE.to_owned(),
            };
            let mut row = names(&workload.metadata);
            row.extend([
                text(&spec.service_account),
                text(join(&spec.addresses)),
                text(lower(spec.fail_mode)),
                text(yes_no(spec.acceleration)),
                text(found_by),
                text(judged(&workload.status.conditions)),
            ]);
            row
        }),
    )
}

pub(super) fn policies(policies: &[AuthorizationPolicy]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "TARGET",
        "ACTION",
        "MODE",
        "RULES",
        "STATUS",
    ];
    render(
        &header,
        policies.iter().map(|policy| {
            let spec = &policy.spec;
            let mut row = names(&policy.metadata);
            row.extend([
                text(format!("{}/{}", spec.target.kind, spec.target.name)),
                text(format!("{:?}", spec.action)),
                text(format!("{:?}", spec.mode)),
                number(spec.rules.len()),
                text(judged(&policy.status.conditions)),
            ]);
            row
        }),
    )
}

pub(super) fn connections(list: &ConnectionList) -> String {
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

pub(super) fn coverage(list: &CoverageList) -> String {
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

pub(super) fn explanation(explanation: &Explanation) -> String {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| NONE.to_owned());
    pairs([
        ("Verdict", explanation.verdict.clone()),
        ("Reason", explanation.reason.clone()),
        ("Service", or_none(&explanation.service)),
        ("Mode", or_none(&explanation.mode)),
        ("Policies", join(&explanation.policy)),
        ("Endpoints", join(&explanation.endpoints)),
    ])
}

pub(super) fn status(status: &Status) -> String {
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
        "all in the kernel".to_owned()
    } else {
        format!("{} in the kernel", status.programmed_revision)
    };
    let objects = status.objects.iter();
    pairs([
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
        ("Kernel", status.kernel.clone()),
        ("Acceleration", acceleration),
        ("Workers", status.workers.to_string()),
        (
            "Proxied connections",
            status.proxied_connections.to_string(),
        ),
    ])
}

pub(super) fn bpf(report: &BpfReport) -> String {
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

/// Names and values, one pair per line.
pub(super) fn pairs<const N: usize>(pairs: [(&str, String); N]) -> String {
    let mut table = empty();
    for (name, value) in pairs {
        table.add_row(Row::from(vec![text(format!("{name}:")), text(value)]));
    }
    finish(table)
}

/// A table without lines, as most tools of this kind print it, so that columns can be cut and grepped.
pub(super) fn render(header: &[&str], rows: impl Iterator<Item = Vec<Cell>>) -> String {
    let mut table = empty();
    table.set_header(header.iter().map(Cell::new).collect::<Vec<_>>());
    table.add_rows(rows.map(Row::from));
    finish(table)
}

fn empty() -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn finish(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

fn names(metadata: &Metadata) -> Vec<Cell> {
    vec![text(&metadata.namespace), text(&metadata.name)]
}

/// Text may come from anywhere: what would steer the terminal is replaced.
fn text(value: impl Display) -> Cell {
    let value = value.to_string();
    let shown: String = value
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    Cell::new(if shown.is_empty() { NONE } else { &shown })
}

fn number(value: impl Display) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

fn join<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(",")
}

fn lower(value: impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

const fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// A size in binary units, with at most four digits.
fn size(bytes: u64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 10 * 1024 {
            return format!("{value}{unit}");
        }
        value /= 1024;
    }
    format!("{value}TiB")
}

/// What is not so, by type and reason; `ok` where everything is.
fn judged(conditions: &[Condition]) -> String {
    let by_status: BTreeMap<bool, Vec<String>> = conditions.iter().fold(
        BTreeMap::new(),
        |mut found: BTreeMap<bool, Vec<String>>, condition| {
            let is_fine = condition.status == ConditionStatus::True;
            let said = format!(
                "{}={:?}({})",
                condition.kind, condition.status, condition.reason
            );
            found.entry(is_fine).or_default().push(said);
            found
        },
    );
    match by_status.get(&false) {
        Some(wrong) => wrong.join(","),
        None if conditions.is_empty() => "pending".to_owned(),
        None => "ok".to_owned(),
    }
}

const NONE: &str = "-";

#[cfg(test)]
mod tests;

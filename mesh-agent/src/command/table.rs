//! Answers as tables. Pure: objects and reports in, text out.

mod graph;
mod object;
mod report;
mod route;

use std::fmt::Display;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Row, Table};

pub(super) use graph::graph;
pub(super) use object::{endpoints, services, workloads};
pub(super) use report::{bpf, breakers, connections, coverage, explanation, status};
pub(super) use route::{all_policies, routes};

/// Names and values, one pair per line.
fn pairs<const N: usize>(pairs: [(&str, String); N]) -> String {
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

const NONE: &str = "-";

#[cfg(test)]
mod tests;

//! `graph`: who needs and who calls whom, as a table, as the API gives it, or for Graphviz.

use serde_json::Value;

use super::client::{Client, checked, read_value};
use super::error::Error;
use super::show::structured;
use super::{print, table};
use crate::config::cli::{Graph as Question, GraphForm, Output};
use crate::state::graph::{Edge, End, Graph};
use crate::state::object::Kind;

pub(super) async fn graph(question: &Question) -> Result<(), Error> {
    let path = match &question.namespace {
        Some(namespace) => format!("/api/v1/graph?namespace={}", checked(namespace)?),
        None => "/api/v1/graph".to_owned(),
    };
    let mut value: Value = Client::new(&question.target)?.get(&path).await?;
    if question.undeclared
        && let Some(Value::Array(edges)) = value.get_mut("edges")
    {
        edges.retain(|edge| edge.get("undeclared") == Some(&Value::Bool(true)));
    }
    let text = match question.output {
        GraphForm::Json => structured(&value, Output::Json)?,
        GraphForm::Table => table::graph(&read_value(&path, value)?),
        GraphForm::Dot => dot(&read_value(&path, value)?),
    };
    print(&text)
}

/// The graph in the DOT language of Graphviz. What is declared and was not seen is dashed; what was seen and is not declared is
/// red; so is what is needed and does not exist.
fn dot(graph: &Graph) -> String {
    let mut lines = vec!["digraph mesh {".to_owned(), "  rankdir=LR;".to_owned()];
    for node in &graph.nodes {
        let shape = match node.kind {
            Kind::Service => "box",
            _ => "ellipse",
        };
        let label = quoted(&format!("{}/{}", node.namespace, node.name));
        let style = if node.exists {
            ""
        } else {
            ", color=red, style=dashed"
        };
        let id = id(&End {
            kind: node.kind,
            namespace: node.namespace.clone(),
            name: node.name.clone(),
        });
        lines.push(format!("  {id} [label={label}, shape={shape}{style}];"));
    }
    for edge in &graph.edges {
        let (from, to) = (id(&edge.source), id(&edge.destination));
        lines.push(format!("  {from} -> {to}{};", look(edge)));
    }
    lines.push("}".to_owned());
    lines.join("\n")
}

fn look(edge: &Edge) -> String {
    let label = match (edge.observed, edge.requests) {
        (false, _) => return " [style=dashed]".to_owned(),
        (true, 0) => format!("{} connections", edge.connections),
        (true, requests) => format!("{requests} requests"),
    };
    let color = if edge.undeclared { ", color=red" } else { "" };
    format!(" [label={}{color}]", quoted(&label))
}

fn id(end: &End) -> String {
    quoted(&format!("{} {}/{}", end.kind, end.namespace, end.name))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dot_shows_what_is_missing_unused_and_undeclared() {
        let end = |name: &str| json!({"kind": "Service", "namespace": "shop", "name": name});
        let node = |name: &str, exists: bool| json!({"kind": "Service", "namespace": "shop", "name": name, "exists": exists});
        let graph: Graph = serde_json::from_value(json!({
            "nodes": [node("web", true), node("db", false)],
            "edges": [
                {"source": end("web"), "destination": end("db"), "declared": true, "observed": false, "undeclared": false},
                {"source": end("web"), "destination": end("web"), "declared": false, "observed": true, "undeclared": true,
                    "connections": 2},
            ],
            "uncounted": 0,
        }))
        .expect("it is a graph");
        assert_eq!(
            dot(&graph),
            "\
digraph mesh {
  rankdir=LR;
  \"Service shop/web\" [label=\"shop/web\", shape=box];
  \"Service shop/db\" [label=\"shop/db\", shape=box, color=red, style=dashed];
  \"Service shop/web\" -> \"Service shop/db\" [style=dashed];
  \"Service shop/web\" -> \"Service shop/web\" [label=\"2 connections\", color=red];
}"
        );
    }
}

//! The table of who needs and who calls whom.

use super::{join, number, render, text, yes_no};
use crate::state::graph::{Edge, Graph};
use crate::state::object::Kind;

pub(in crate::command) fn graph(graph: &Graph) -> String {
    let header = [
        "FROM",
        "NAME",
        "TO",
        "DECLARED",
        "CONNECTIONS",
        "VERDICTS",
        "OPEN",
        "REQUESTS",
        "FAILED",
        "STATUS",
    ];
    render(
        &header,
        graph.edges.iter().map(|edge| {
            let verdicts = edge.verdicts.iter();
            let verdicts = verdicts.map(|(verdict, count)| format!("{verdict}={count}"));
            let (from, to) = (&edge.source, &edge.destination);
            vec![
                text(from.kind),
                text(format!("{}/{}", from.namespace, from.name)),
                text(format!("{}/{}", to.namespace, to.name)),
                text(yes_no(edge.declared)),
                number(edge.connections),
                text(join(verdicts)),
                number(edge.open),
                number(edge.requests),
                number(edge.failed),
                text(status(graph, edge)),
            ]
        }),
    )
}

fn status(graph: &Graph, edge: &Edge) -> &'static str {
    let to = &edge.destination;
    let is_to = |it: &&crate::state::graph::Node| {
        it.kind == Kind::Service && it.namespace == to.namespace && it.name == to.name
    };
    let exists = graph.nodes.iter().find(is_to).is_some_and(|it| it.exists);
    match (exists, edge.undeclared, edge.observed) {
        (false, _, _) => "missing",
        (true, true, _) => "undeclared",
        (true, false, true) => "ok",
        (true, false, false) => "unused",
    }
}

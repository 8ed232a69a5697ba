//! Commands about the registry as a whole.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Target;

/// `registry`.
#[derive(Clone, Debug, Subcommand)]
pub enum Registry {
    /// Write all objects as YAML, without what the agent adds
    Export(Export),
    /// Create or replace the objects of a file; nothing is written unless all of them are right
    Import(Import),
}

/// `registry export`.
#[derive(Args, Clone, Debug)]
pub struct Export {
    /// File that is written; not where there are no objects, and it has some [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Where the agent is.
    #[command(flatten)]
    pub target: Target,
}

/// `registry import`.
#[derive(Args, Clone, Debug)]
pub struct Import {
    /// File with objects, YAML or JSON; - is stdin
    pub file: PathBuf,
    /// Let the agent judge the objects, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Where the agent is.
    #[command(flatten)]
    pub target: Target,
}

/// `graph`.
#[derive(Args, Clone, Debug)]
pub struct Graph {
    /// Namespace of services and workloads to show [default: all]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Show only edges that no service declares
    #[arg(long)]
    pub undeclared: bool,
    /// Form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: GraphForm,
    /// Where the agent is.
    #[command(flatten)]
    pub target: Target,
}

/// Form of a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum GraphForm {
    /// One line per edge.
    #[default]
    Table,
    /// As the API gives it.
    Json,
    /// For Graphviz: `dot -Tsvg`.
    Dot,
}

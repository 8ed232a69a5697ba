//! The command line as the user wrote it. The only place, with `options`, that knows clap.

mod completions;
mod destination;
mod registry;
mod target;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::options::Options;
use super::resolve;

pub use completions::Completions;
pub use destination::{Destination, NoDestination};
pub use registry::{Export, Graph, GraphForm, Import, Registry};
pub use target::Target;

/// Service mesh of one node: eBPF decides at connect, one shared proxy does the rest.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, after_help = AFTER_HELP, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the process's own arguments. Help and mistakes in usage end the process: 0 and 2.
    #[must_use]
    pub fn from_process() -> Self {
        Self::parse()
    }

    /// Reads these arguments, of which the first is the name of the program.
    pub fn from_words<I>(words: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        Self::try_parse_from(words)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node
    Run(Box<Run>),
    /// Test whether this machine can run the agent: one line, hint and code each
    Check(Check),
    /// Run a command as a workload of the mesh; ends with the command's exit code
    Exec(Exec),
    /// Show how the agent is
    Status(Query),
    /// Show services
    Services(List),
    /// Show endpoints
    Endpoints(List),
    /// Show workloads
    Workloads(List),
    /// Show routes of all kinds
    Routes(List),
    /// Show authorization policies and traffic policies
    Policies(List),
    /// Show live connections
    Connections(Filter),
    /// Show circuit breakers, and how they are
    Breakers(Filter),
    /// Show per workload where its connections went
    Coverage(Filter),
    /// Say what would happen to a connection now, and why
    Explain(Explain),
    /// Show kernel programs and maps
    Bpf(Query),
    /// Change what the agent logs, while it runs
    LogLevel(LogLevel),
    /// Let the agent finish its connections and take no new ones
    Drain(Target),
    /// Remove everything that is pinned in the kernel; works without an agent, and one that runs steers nothing any more
    Cleanup(Cleanup),
    /// Create or replace objects from YAML or JSON
    Apply(Apply),
    /// Judge files with objects, without an agent: one line per object, 65 if one is wrong, 66 if a file is not there
    Validate(Validate),
    /// Delete an object
    Delete(Delete),
    /// Write all objects into a file, or take them from one
    #[command(subcommand)]
    Registry(Registry),
    /// Show which services need which, and who was seen to call whom
    Graph(Graph),
    /// Print what a shell needs to complete commands of this program
    Completions(Completions),
    /// Show which build this is
    Version(Version),
}

/// `run`.
#[derive(Args, Clone, Debug, Default)]
pub struct Run {
    /// YAML file with the keys of --print-config; - is stdin
    #[arg(long, env = "MESH_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub options: Options,
    /// What becomes of the registry that is there.
    #[command(flatten)]
    pub beginning: Beginning,
    /// Print the settings in force, in the form of the file, and end
    #[arg(long)]
    pub print_config: bool,
    /// Check the settings, and whether the files are there that they name, and end: 0 if all is right, 65 if not
    #[arg(long)]
    pub validate_only: bool,
}

/// What becomes of the registry that is there.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Beginning {
    /// Forget registry and pinned state first
    #[arg(long)]
    pub reset: bool,
    /// Go back to the last export where the registry is damaged or gone
    #[arg(long, conflicts_with = "reset")]
    pub restore: bool,
}

/// `check`.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// Cgroup that would be hooked [default: root of the cgroup2 mount]
    #[arg(long, env = "MESH_CGROUP", value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// Directory on a bpffs for maps and links
    #[arg(long, env = "MESH_PIN_DIR", value_name = "PATH", default_value = resolve::PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Output,
}

/// `cleanup`.
#[derive(Args, Clone, Debug)]
pub struct Cleanup {
    /// Directory on a bpffs with maps and links
    #[arg(long, env = "MESH_PIN_DIR", value_name = "PATH", default_value = resolve::PIN_DIR)]
    pub pin_dir: PathBuf,
}

/// A question without arguments.
#[derive(Args, Clone, Debug)]
pub struct Query {
    /// Where the agent is.
    #[command(flatten)]
    pub target: Target,
    /// Form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Output,
}

/// A question about things that have a namespace.
#[derive(Args, Clone, Debug)]
pub struct Filter {
    /// Where the agent is, and the form of the answer.
    #[command(flatten)]
    pub query: Query,
    /// Namespace to show
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "all")]
    pub namespace: Option<String>,
    /// Show all namespaces; so it is without -n
    #[arg(short = 'A', long = "all-namespaces")]
    pub all: bool,
}

/// A question about objects.
#[derive(Args, Clone, Debug)]
pub struct List {
    /// Name of the one to show; without -n it may be in any namespace
    pub name: Option<String>,
    /// Which.
    #[command(flatten)]
    pub filter: Filter,
}

/// `explain`.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// Workload that connects: NAMESPACE/NAME, or NAME in namespace default
    pub source: String,
    /// What it connects to: ADDR:PORT, or a service and its port: web.shop.mesh:80, shop/web:80, web:80
    pub destination: Destination,
    /// It sends datagrams
    #[arg(long)]
    pub udp: bool,
    /// Method of a request on that connection
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Its path, with the query
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// One of its headers; may be given more than once
    #[arg(long = "header", value_name = "NAME:VALUE")]
    pub headers: Vec<String>,
    /// Where the agent is, and the form of the answer.
    #[command(flatten)]
    pub query: Query,
}

/// `log-level`.
#[derive(Args, Clone, Debug)]
pub struct LogLevel {
    /// error, warn, info, debug, trace, or directives as in `RUST_LOG`
    pub level: String,
    /// Where the agent is.
    #[command(flatten)]
    pub target: Target,
}

/// `apply`.
#[derive(Args, Clone, Debug)]
pub struct Apply {
    /// File with one or more objects; - is stdin
    #[arg(short, long = "filename", value_name = "FILE")]
    pub file: PathBuf,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Where the agent is.
    #[command(flatten)]
    pub target: Target,
}

/// `validate`.
#[derive(Args, Clone, Debug)]
pub struct Validate {
    /// Files with objects, YAML or JSON; - is stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// These files hold everything: refuse what refers to nothing, or would not be in force beside the rest
    #[arg(long = "strict")]
    pub is_strict: bool,
    /// Form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Output,
}

/// `delete`.
#[derive(Args, Clone, Debug)]
pub struct Delete {
    /// service, endpoint, workload, policy, httproute, grpcroute, tcproute, tlsroute, referencegrant or trafficpolicy
    pub kind: KindName,
    /// Its name
    pub name: String,
    /// Its namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Where the agent is.
    #[command(flatten)]
    pub target: Target,
}

/// `version`.
#[derive(Args, Clone, Debug)]
pub struct Version {
    /// Form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Output,
}

/// `exec`.
#[derive(Args, Clone, Debug)]
pub struct Exec {
    /// Name of the workload; also its service account
    #[arg(long, value_name = "NAME")]
    pub workload: String,
    /// Namespace of workload and service
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Service that the command serves; made if it is not there
    #[arg(long, value_name = "NAME", requires = "port")]
    pub service: Option<String>,
    /// Port on which the command listens
    #[arg(long, value_name = "PORT", requires = "service", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Address of the workload [default: the first non-loopback address of this network namespace]
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Let bytes move from socket to socket
    #[arg(long)]
    pub acceleration: bool,
    /// What happens to connections that need the agent while it is away
    #[arg(long, value_name = "MODE", default_value = "open")]
    pub fail_mode: FailModeName,
    /// Where the agent is.
    #[command(flatten)]
    pub target: Target,
    /// Command and arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// As the API gives it.
    Json,
    /// The same as YAML.
    Yaml,
}

/// A kind of object, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    /// A service.
    #[value(alias = "services", alias = "svc")]
    Service,
    /// An endpoint.
    #[value(alias = "endpoints", alias = "ep")]
    Endpoint,
    /// A workload.
    #[value(alias = "workloads")]
    Workload,
    /// An authorization policy.
    #[value(
        alias = "policies",
        alias = "authorizationpolicy",
        alias = "authorizationpolicies"
    )]
    Policy,
    /// An HTTP route.
    #[value(alias = "httproutes")]
    Httproute,
    /// A gRPC route.
    #[value(alias = "grpcroutes")]
    Grpcroute,
    /// A TCP route.
    #[value(alias = "tcproutes")]
    Tcproute,
    /// A TLS route.
    #[value(alias = "tlsroutes")]
    Tlsroute,
    /// A grant.
    #[value(alias = "referencegrants")]
    Referencegrant,
    /// A traffic policy.
    #[value(alias = "trafficpolicies")]
    Trafficpolicy,
}

/// What happens to connections that need the agent while it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailModeName {
    /// They go on without it.
    Open,
    /// They are refused.
    Closed,
}

const AFTER_HELP: &str = "\
Flags win over MESH_* in the environment, these over the file, that over the defaults.

Exit codes: 0 done, 1 failed, 2 wrong usage, 64 wrong argument, 65 wrong settings or object, 66 no such object or file,
69 agent not reachable or not ready, 71 not supported by this system, 73 cannot create, 74 input or output failed,
75 changed meanwhile, 77 not permitted; exec: the command's own, 126 and 127 as in a shell, 128+N after signal N; check: that
of the first line that fails, 10 kernel programs, 11 kernel, 12 BTF, 13 cgroup2, 14 bpffs, 15 capabilities (16 and 17,
other owners and acceleration, only warn).";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definitions_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_the_agreed_flags() {
        let words = "mesh-agent run --cgroup /cg --pin-dir /p --state-dir /s --api 127.0.0.1:1 --metrics 127.0.0.1:2 \
             --config f.yaml --unix-socket /u --token-file /t --workers 2 --acceleration off --log-level debug \
             --log-format json --access-log off --drain-timeout 5s --virtual-range 10.0.0.0/8 --virtual-range fd00::/64 \
             --reset --allowed-host a,b --region eu --zone eu-1 --node n1 --source /d";
        let Command::Run(run) = parse(words).command else {
            panic!("it is run")
        };
        assert!(run.beginning.reset);
        let ranges = run.options.virtual_range.map(|ranges| ranges.len());
        assert_eq!(ranges, Some(2));
        assert_eq!(run.options.allowed_host.map(|hosts| hosts.len()), Some(2));
    }

    #[test]
    fn exec_keeps_the_command_as_it_is() {
        let words = "mesh-agent exec --workload w --service s --port 80 -- sh -c --port";
        let Command::Exec(exec) = parse(words).command else {
            panic!("it is exec")
        };
        assert_eq!(exec.command, ["sh", "-c", "--port"]);
        assert_eq!(exec.namespace, "default");
    }

    #[test]
    fn wrong_usage_is_refused() {
        for words in [
            "mesh-agent",
            "mesh-agent exec --workload w",
            "mesh-agent exec --workload w --service s -- true",
            "mesh-agent exec --workload w --service s --port 0 -- true",
            "mesh-agent run --workers many",
            "mesh-agent run --drain-timeout 5",
            "mesh-agent services -n a -A",
            "mesh-agent delete cluster x",
            "mesh-agent explain shop/web nowhere",
            "mesh-agent status --api 127.0.0.1:1 --unix-socket /s",
        ] {
            assert!(
                Cli::from_words(words.split_whitespace()).is_err(),
                "{words}"
            );
        }
    }

    fn parse(words: &str) -> Cli {
        Cli::from_words(words.split_whitespace()).expect(words)
    }
}

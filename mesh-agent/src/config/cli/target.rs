//! Where the agent is that a command asks.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

use crate::config::resolve;

/// Where the agent is. Of address and socket the one that is a flag holds, else the socket.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address of the API.
    pub api: SocketAddr,
    /// Its unix socket, if that is to be used.
    pub unix_socket: Option<PathBuf>,
    /// File with the token that the agent asks for.
    pub token_file: Option<PathBuf>,
}

/// The same, wherever each comes from.
#[derive(Args)]
struct Flags {
    /// Address of the agent's API
    #[arg(long, env = "MESH_API", value_name = "ADDR:PORT", default_value_t = resolve::API)]
    api: SocketAddr,
    /// Unix socket of the agent's API, instead of --api; one in the environment gives way to --api
    #[arg(long, env = "MESH_UNIX_SOCKET", value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// File with the token that the agent asks for
    #[arg(long, env = "MESH_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<PathBuf>,
}

impl FromArgMatches for Target {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let is_flag = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        let flags = Flags::from_arg_matches(matches)?;
        let unix_socket = match (is_flag("api"), is_flag("unix_socket")) {
            (true, true) => {
                let text =
                    "the argument '--api <ADDR:PORT>' cannot be used with '--unix-socket <PATH>'";
                return Err(Error::raw(ErrorKind::ArgumentConflict, text));
            }
            (true, false) => None,
            (false, _) => flags.unix_socket,
        };
        Ok(Self {
            api: flags.api,
            unix_socket,
            token_file: flags.token_file,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Target {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}

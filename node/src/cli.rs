//! The command line: commands, their options, and dispatch.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use plexus_model::Error;

use crate::command;
use crate::config::Settings;

/// Plexus, a distributed SQL database with full-text and vector search
///
/// Every option can also be set with the environment variable shown in brackets.
#[derive(Parser, Debug)]
#[command(name = "plexus", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a node: --bootstrap founds a cluster, --join enters one, and without them it returns to its own
    Start {
        /// TOML configuration file. Its keys are the option names with underscores, for example data_dir
        #[arg(long, env = "PLEXUS_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Start a cluster on this machine, load data and open a SQL shell
    Demo(command::demo::Demo),
    /// Run SQL statements, or open a SQL shell
    Sql(command::sql::Sql),
    /// Load files into a table in one commit
    Load(command::load::Load),
    /// Show the status of a cluster: nodes, tables and shards
    Status(command::status::Status),
}

impl Cli {
    /// Runs the command until it completes. Logs and results go to standard error and standard output.
    ///
    /// # Errors
    /// Those of the command, worded for the user.
    pub fn run(self) -> Result<(), Error> {
        match self.command {
            Command::Start { config, settings } => command::start::run(config.as_deref(), *settings),
            Command::Demo(demo) => demo.run(),
            Command::Sql(sql) => sql.run(),
            Command::Load(load) => load.run(),
            Command::Status(status) => status.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_valid_and_every_option_has_an_environment_variable() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands().filter(|c| c.get_name() != "help") {
            for argument in command.get_arguments().filter(|a| a.get_long().is_some()) {
                let name = argument.get_long().unwrap_or_default();
                if !["help", "version"].contains(&name) {
                    assert!(argument.get_env().is_some(), "{} --{name} has no variable", command.get_name());
                }
            }
        }
    }
}

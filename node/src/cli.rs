//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use plexus_model::Error;

use crate::command;
use crate::config::Settings;

/// Plexus: a distributed query cluster. Columns, SQL and bulk data over Arrow Flight, on one node or many.
#[derive(Parser, Debug)]
#[command(name = "plexus", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run one node. With no options: a complete system in ./plexus-data
    Start {
        /// TOML file with the same keys as the options, with underscores
        #[arg(long, env = "PLEXUS_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Boot a cluster on this machine, load data into it, and open a SQL shell
    Demo(command::demo::Demo),
    /// Run SQL: a shell at a terminal, a filter in a pipe
    Sql(command::sql::Sql),
    /// Load files into a table, in one commit
    Load(command::load::Load),
    /// Show nodes, the metadata group, tables and shards
    Status(command::status::Status),
}

impl Cli {
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
    fn the_definition_is_consistent_and_every_option_is_also_an_environment_variable() {
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

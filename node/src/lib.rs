//! The `plexus` program: a node assembled from the other crates, and the command line.
//!
//! This crate decides nothing about data. It parses configuration, starts the parts of a node in order and
//! stops them in reverse, serves health, metrics and status over HTTP, and implements the client commands.
//! These talk to a cluster through Flight SQL and HTTP only, as any other client does.
//!
//! Central types:
//!
//! - [`cli::Cli`] is the parsed command line; running it runs a node or a client command.
//! - [`client::Client`] is a Flight SQL client for statements and bulk ingest.
//! - [`local::LocalCluster`] runs a cluster of node processes on this machine, for the demo and for
//!   benchmarks.
//!
//! ```
//! use clap::Parser;
//! use plexus_node::cli::Cli;
//!
//! // What `main` does, except that it also runs the command.
//! let command_line = ["plexus", "start", "--data-dir", "/var/lib/plexus", "--roles", "data,query"];
//! assert!(Cli::try_parse_from(command_line).is_ok());
//! assert!(Cli::try_parse_from(["plexus", "start", "--roles", "unknown"]).is_err());
//! ```
//!
//! A client of a running node:
//!
//! ```no_run
//! # async fn example() -> plexus_model::Result<()> {
//! use plexus_node::client::Client;
//!
//! let mut client = Client::connect("grpc://127.0.0.1:7070").await?;
//! let (schema, batches) = client.query("SELECT table_name, rows FROM plexus.tables").await?;
//! # Ok(())
//! # }
//! ```

pub mod cli;
pub mod client;
pub mod command;
mod config;
mod connections;
mod data_dir;
mod http;
mod input;
pub mod local;
mod logging;
mod membership;
mod memory;
mod node;
mod render;
mod servers;
pub mod status;

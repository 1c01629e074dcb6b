//! The `plexus` binary as a library: a node put together from its parts, and the command line.
//!
//! [`node::Node`] starts the roles of one process and drains them. The commands in [`command`] are clients:
//! they speak Flight SQL and HTTP like anybody else.

pub mod cli;
pub mod client;
pub mod command;
pub mod config;
pub mod data_dir;
mod http;
pub mod input;
pub mod local;
pub mod logging;
pub mod node;
pub mod render;
pub mod status;

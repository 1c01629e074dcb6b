//! The metadata quorum: one replicated log, and the pure function that applies it.
//!
//! [`Meta`] is this node's member of the group: it proposes commands, reads linearizably, and publishes
//! every manifest that the log produces. Voting members decide; every other node follows as a learner and
//! applies the same entries with the same code. [`apply`] is the state machine as a pure function.
//!
//! This crate knows neither Arrow nor SQL nor sockets: how bytes reach another member is the
//! [`Transport`]'s to say.

// The errors of openraft's storage traits are large, and not ours to box.
#![allow(clippy::result_large_err)]

pub mod apply;
mod batcher;
mod commit;
pub mod durable;
mod log;
mod meta;
mod network;
mod rebase;
mod state_machine;
mod types;
mod wire;

pub use log::LogStore;
pub use meta::{Meta, MetaOptions, MetaStatus, SNAPSHOT_ENTRIES};
pub use network::Transport;
pub use state_machine::{Published, StateMachine};
pub use types::TypeConfig;

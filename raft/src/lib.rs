//! The metadata group of Plexus: one replicated Raft log, and the pure function that applies it.
//!
//! The log decides which segments of which tables are visible. All nodes of a cluster are members of one Raft
//! group: a few of them vote, the others follow as learners and apply the same entries with the same code.
//!
//! This crate does not know Arrow, SQL or sockets. It sees segments only as records of the manifest, and the
//! node provides a [`Transport`] that carries encoded requests to other members.
//!
//! The central items:
//!
//! - [`Meta`] is the handle to this node's member of the group: it proposes commands, reads linearizably,
//!   changes the membership, and publishes every manifest that the log produces.
//! - [`apply`](apply::apply) is the state machine as a pure function: manifest and log entry in, outcomes
//!   out.
//! - [`LogStore`] and [`StateMachine`] are the storage that `openraft` runs on: log and vote, manifest and
//!   snapshots.
//!
//! # Example
//!
//! Every proposal has a token. A proposal that is applied again, because its first answer was lost, gets the
//! recorded outcome and changes nothing:
//!
//! ```
//! use plexus_model::{ClusterId, Command, Manifest, Outcome, Proposal, Secret, Token, Version};
//! use plexus_raft::apply::apply;
//!
//! let bootstrap = Command::Bootstrap { cluster: ClusterId(7), secret: Secret::generate() };
//! let proposal = Proposal { token: Token(1), command: bootstrap };
//! let mut manifest = Manifest::default();
//!
//! let first = apply(&mut manifest, Version(1), 1_000_000, vec![proposal.clone()]);
//! assert!(matches!(first[0], Outcome::Applied { version: Version(1), .. }));
//! assert_eq!(manifest.cluster, ClusterId(7));
//!
//! let repeated = apply(&mut manifest, Version(2), 2_000_000, vec![proposal]);
//! assert_eq!(repeated, first);
//! ```

// openraft's storage traits prescribe their error type, which is large.
#![allow(clippy::result_large_err)]

pub mod apply;
mod batcher;
mod commit;
pub mod durable;
mod elections;
#[doc(hidden)]
pub mod fuzzing;
mod hand_over;
mod heartbeats;
mod limits;
mod log;
mod membership;
mod meta;
mod network;
mod rebase;
mod recovery;
mod requests;
mod snapshots;
mod state_machine;
mod types;
mod voters;
mod wire;

pub use limits::SNAPSHOT_ENTRIES;
pub use log::LogStore;
pub use meta::{Meta, MetaOptions, MetaStatus, SpaceCheck, SpaceUse};
pub use network::Transport;
pub use state_machine::{Published, StateMachine};
pub use types::TypeConfig;

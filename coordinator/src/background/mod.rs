//! Background work of a node: the runner and its tasks.

pub mod compaction;
pub mod compaction_policy;
pub mod context;
pub mod files;
pub mod flush;
pub mod garbage;
pub mod index_build;
pub mod liveness;
pub mod maintenance;
pub mod repair;
pub mod retention;
pub mod runner;
pub mod scrub;

//! Background work of a node: the runner, what its tasks share, and the tasks.

pub(crate) mod attempts;
pub(crate) mod compaction;
pub(crate) mod compaction_policy;
pub(crate) mod context;
pub(crate) mod files;
pub(crate) mod flush;
pub(crate) mod garbage;
pub(crate) mod index_build;
pub(crate) mod liveness;
pub(crate) mod maintenance;
pub(crate) mod repair;
pub(crate) mod repair_task;
pub(crate) mod retention;
pub(crate) mod runner;
pub(crate) mod scrub;

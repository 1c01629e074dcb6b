//! What names stand for at a pinned version: user tables, older versions, DML targets and system tables.

pub mod catalog;
pub mod context;
pub mod dml_target;
pub mod pinned;
pub mod system;

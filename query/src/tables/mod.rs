//! The tables that a pinned session sees: user tables, older versions of them, DML targets and system tables.

pub(crate) mod catalog;
pub(crate) mod context;
pub(crate) mod dml_target;
pub(crate) mod information_schema;
pub(crate) mod pinned;
pub(crate) mod queries;
pub(crate) mod system;

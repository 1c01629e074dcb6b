//! DDL: statements that define tables, schemas and indexes. Each becomes one command of the metadata log.

pub(crate) mod alter_table;
pub(crate) mod create_table;
pub(crate) mod executor;
pub(crate) mod index;

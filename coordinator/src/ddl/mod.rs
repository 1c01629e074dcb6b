//! Statements that define tables, schemas and indexes.

pub mod alter_table;
pub mod create_table;
pub mod executor;
pub mod index;

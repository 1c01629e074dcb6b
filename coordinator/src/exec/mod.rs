//! Executes statements: sessions, transactions, planning and the plan cache, queries with retries, DML,
//! `COPY` and bulk ingest.

pub(crate) mod all_running;
pub(crate) mod answer;
pub(crate) mod context;
pub(crate) mod copy;
pub(crate) mod csv_export;
pub(crate) mod described;
pub(crate) mod dml;
pub(crate) mod engine_settings;
pub(crate) mod insert;
pub(crate) mod json_encoding;
pub(crate) mod load;
pub(crate) mod plan_cache;
pub(crate) mod plan_statement;
pub(crate) mod planner;
pub(crate) mod prepared;
pub(crate) mod query;
pub(crate) mod read_tracking;
pub(crate) mod retry;
pub(crate) mod row_stream;
pub(crate) mod session;
pub(crate) mod start;
pub(crate) mod transaction;
pub(crate) mod transaction_control;
pub(crate) mod transactions;
pub(crate) mod truncate;

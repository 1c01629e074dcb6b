//! Running statements: sessions, transactions, queries, DML, retries, the plan cache, COPY and bulk ingest.

pub mod context;
pub mod coordinator;
pub mod copy;
pub mod dml;
pub mod insert;
pub mod load;
pub mod plan_cache;
pub mod planner;
pub mod query;
pub mod retry;
pub mod session;
pub mod transaction;
pub mod transactions;
pub mod truncate;

//! Tests with real processes: the built binary, started, killed and restarted.

#![allow(clippy::disallowed_methods, reason = "these tests wait for processes, on threads of their own")]

mod bad_input;
mod demo;
mod failpoints;
mod faults;
mod harness;
mod maintenance;
mod membership;
mod model;
mod operations;
mod queries;
mod relevance;
mod roles;
mod running;
mod search;
mod snapshots;
mod sql;
mod test_data;
mod tpch;
mod transactions;
mod vector_search;

//! Tests with real processes: the built binary, started, killed and restarted.

mod bad_input;
mod changes;
mod demo;
mod faults;
mod harness;
mod members;
mod operate;
mod roles;
mod sql;
mod tpch;

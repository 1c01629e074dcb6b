//! Tests with real processes: the built binary, started, killed and restarted.

mod bad_input;
mod changes;
mod demo;
mod failpoints;
mod faults;
mod harness;
mod members;
mod model;
mod operate;
mod roles;
mod search;
mod sql;
mod tpch;
mod upkeep;
mod vectors;

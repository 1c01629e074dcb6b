//! Tests with real processes: the built binary, started, killed and restarted.

mod bad_input;
mod faults;
mod harness;
mod roles;
mod sql;
mod tpch;

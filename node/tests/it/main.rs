//! Tests with real processes: the built binary, started, killed and restarted.

mod bad_input;
mod faults;
mod harness;
mod sql;
mod tpch;

//! Tests of `apply` as a pure function: the same entries give the same bytes, and every check holds.

mod compaction;
mod deletions;
mod determinism;
mod durability;
mod flush;
mod helpers;
mod indexes;
mod inline_limits;
mod keys;
mod nodes;
mod tables;
mod tokens;
mod transactions;
mod vacuum;

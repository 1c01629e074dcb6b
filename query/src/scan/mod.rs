//! Scans: leaves of Vortex files and inline rows, their pruning, statistics and distribution over nodes.

pub mod bounds;
pub mod distinct;
pub mod distribution;
pub mod files;
pub mod leaf;
pub mod pruning;
pub mod schema_adapter;

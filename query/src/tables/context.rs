//! What tables need of the node that reads them.

use crate::scan::leaf::ScanContext;
use crate::search::snapshot::context::SearchContext;

/// What scans and searches of a node have in common between tables. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TableContext {
    /// What scans need.
    pub scans: ScanContext,
    /// What searches need.
    pub search: SearchContext,
}

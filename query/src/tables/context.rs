//! What tables need of the node that reads them.

use crate::scan::leaf::ScanContext;
use crate::search::snapshot::context::SearchContext;

/// Scans and searches of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TableContext {
    /// For scans.
    pub scans: ScanContext,
    /// For searches.
    pub search: SearchContext,
}

//! What is kept of a table for readers of older versions, and until when.

use plexus_model::{Table, Version};

/// Whether there is something that no version from `until` on sees.
pub fn has_garbage(table: &Table, until: Version) -> bool {
    table.dropped.is_some_and(|dropped| dropped <= until)
        || table.former.iter().any(|former| former.until <= until)
        || table.segments.values().any(|s| s.removed.is_some_and(|removed| removed <= until))
}

//! Looks up the rows of one primary key. The key index of a segment tells where they may be, so that the
//! segment is not scanned.

use arrow_schema::SchemaRef;
use datafusion::logical_expr::Expr;
use plexus_model::{ErrorKind, Result, RowSet, Segment, SegmentData, Table};
use plexus_storage::{CanonicalKeys, SegmentReader, SegmentRef};

use crate::scan::pruning::only_key;

/// Rows with one hash that are looked up at most. So many are not the rows of one key.
const ROWS_MAX: usize = 64;

/// Bytes of key indexes that one lookup reads at most, which are some 10 million rows. They stay in a cache
/// of twice the size. More of them would take each other's place, and cost as much as a scan.
const INDEX_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// The primary key that a scan wants.
pub(crate) struct KeyLookup {
    hash: u64,
}

impl KeyLookup {
    /// The lookup of a scan of `segments` whose filters fix every column of the primary key. `None` without
    /// such filters, and for segments with too many rows.
    pub(crate) fn of<'a>(
        table: &Table,
        schema: &SchemaRef,
        filters: &[Expr],
        segments: impl Iterator<Item = &'a Segment>,
    ) -> Option<Self> {
        let index_bytes = |segment: &Segment| match &segment.data {
            SegmentData::File(file) => file.bytes.saturating_sub(file.column_bytes),
            SegmentData::Inline(_) => 0,
        };
        let key = CanonicalKeys::new(&only_key(table, schema, filters)?).ok()?;
        let hash = key.hashes().first().copied()?;
        (segments.map(index_bytes).sum::<u64>() <= INDEX_BYTES_MAX).then_some(Self { hash })
    }

    /// The rows of a segment that may have the key, without the `invisible` ones. `None` when the segment has
    /// to be scanned: it is inline or not on this node, or its key index cannot be read.
    ///
    /// # Errors
    /// `Internal` when the index cannot be read for a reason that a scan would meet as well.
    pub(crate) async fn rows(
        &self,
        reader: &SegmentReader,
        table: &Table,
        segment: &Segment,
        invisible: &RowSet,
    ) -> Result<Option<RowSet>> {
        let Some(file) = SegmentRef::data_file(table, segment).filter(|file| reader.has(file)) else {
            return Ok(None);
        };
        let index = match reader.key_index(&file).await {
            Ok(index) => index,
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable) => return Ok(None),
            Err(e) => return Err(e),
        };
        let rows = index.rows_with_hash(self.hash).filter(|row| !invisible.contains(*row));
        let rows: Vec<u32> = rows.take(ROWS_MAX + 1).collect();
        Ok((rows.len() <= ROWS_MAX).then(|| rows.into_iter().collect()))
    }
}

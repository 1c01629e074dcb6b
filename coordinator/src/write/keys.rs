//! Primary keys: finds the stored rows with the keys of rows to be written.
//!
//! The key indexes of segments give candidates by hash. The keys themselves are then read and compared.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use plexus_index::{KeyIndex, build_key_index};
use plexus_memory::inherit_in;
use plexus_model::{
    Error, NewSegment, Result, RowSelection, RowSet, Segment, SegmentId, Table, TableSchema, Version,
};
use plexus_storage::{CanonicalKeys, SegmentReader, SegmentRef, project};

/// How a write handles a row whose primary key exists already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDuplicate {
    /// The write fails.
    Fail,
    /// The stored row stays, and the new row is ignored.
    Ignore,
    /// The new row replaces the stored row.
    Replace,
}

/// Row positions by segment.
pub(crate) type RowsBySegment = BTreeMap<SegmentId, RowSet>;

/// How the duplicate keys of new segments are resolved.
#[derive(Default, Debug)]
pub(crate) struct KeyResolution {
    /// Stored rows that are replaced.
    pub(crate) replaced: RowsBySegment,
    /// Rows of the new segments that are ignored, because their key exists.
    pub(crate) ignored: RowsBySegment,
}

/// Finds rows by primary key.
pub struct KeyIndexes {
    reader: SegmentReader,
}

impl KeyIndexes {
    /// Reads segments through `reader`.
    pub fn new(reader: SegmentReader) -> Self {
        Self { reader }
    }

    /// Finds and resolves duplicate keys of new segments: among themselves, and with the rows that `version`
    /// of the table sees, without the `deleted` rows.
    ///
    /// # Errors
    /// `AlreadyExists` names a key that is stored already, with [`OnDuplicate::Fail`]. `InvalidArgument`
    /// names a key that occurs twice in the new segments, unless duplicates are ignored.
    pub(crate) async fn resolve(
        &self,
        table: &Table,
        version: Version,
        deleted: &RowsBySegment,
        added: &[NewSegment],
        mode: OnDuplicate,
    ) -> Result<KeyResolution> {
        let mut resolved = KeyResolution::default();
        for (i, new) in added.iter().map(|s| &s.0).enumerate() {
            let later = added[i..].iter().map(|s| &s.0).filter(|s| s.shard == new.shard);
            for other in later {
                for (row, duplicate) in self.rows_with_equal_keys(table, new, other, &RowSet::new()).await? {
                    match mode {
                        OnDuplicate::Ignore => {
                            resolved.ignored.entry(other.id).or_default().insert(duplicate);
                        }
                        _ => return Err(self.duplicate_error(table, new, row).await),
                    }
                }
            }
            for other in table.visible(version).filter(|s| s.shard == new.shard) {
                let mut invisible = self.reader.invisible_rows(table, other, version).await?;
                if let Some(rows) = deleted.get(&other.id) {
                    invisible = Arc::new(&*invisible | rows);
                }
                for (row, stored) in self.rows_with_equal_keys(table, new, other, &invisible).await? {
                    match mode {
                        OnDuplicate::Fail => return Err(self.exists_error(table, new, row).await),
                        OnDuplicate::Ignore => {
                            resolved.ignored.entry(new.id).or_default().insert(row);
                        }
                        OnDuplicate::Replace => {
                            resolved.replaced.entry(other.id).or_default().insert(stored);
                        }
                    }
                }
            }
        }
        Ok(resolved)
    }

    /// Pairs of rows of two segments with the same key, without the `invisible` rows of the second segment.
    /// For a segment and itself, each pair of different rows occurs once.
    async fn rows_with_equal_keys(
        &self,
        table: &Table,
        left: &Segment,
        right: &Segment,
        invisible: &RowSet,
    ) -> Result<Vec<(u32, u32)>> {
        let (left_index, right_index) = (self.index(table, left).await?, self.index(table, right).await?);
        let pairs = join_hashes(left_index, right_index).await?;
        let same = left.id == right.id;
        let pairs: Vec<(u32, u32)> =
            pairs.into_iter().filter(|(l, r)| !invisible.contains(*r) && (!same || l < r)).collect();
        if pairs.is_empty() {
            return Ok(pairs);
        }
        let left_keys = self.keys_at(table, left, pairs.iter().map(|(l, _)| *l).collect()).await?;
        let right_keys = self.keys_at(table, right, pairs.iter().map(|(_, r)| *r).collect()).await?;
        Ok(pairs.into_iter().filter(|(l, r)| left_keys.get(l) == right_keys.get(r)).collect())
    }

    /// The rows of a shard that `version` sees with the given keys, by the position of the key. `index` is
    /// the key index of `keys`.
    ///
    /// # Errors
    /// Those of reading segments.
    pub(crate) async fn find(
        &self,
        table: &Table,
        version: Version,
        shard: u32,
        keys: &CanonicalKeys,
        index: KeyIndex,
    ) -> Result<HashMap<u32, (SegmentId, u32)>> {
        let mut found = HashMap::new();
        for segment in table.visible(version).filter(|s| s.shard == shard) {
            let stored_index = self.index(table, segment).await?;
            let pairs = join_hashes(index.clone(), stored_index).await?;
            if pairs.is_empty() {
                continue;
            }
            let invisible = self.reader.invisible_rows(table, segment, version).await?;
            let pairs: Vec<(u32, u32)> =
                pairs.into_iter().filter(|(_, row)| !invisible.contains(*row)).collect();
            if pairs.is_empty() {
                continue;
            }
            let stored = self.keys_at(table, segment, pairs.iter().map(|(_, row)| *row).collect()).await?;
            for (position, row) in pairs {
                if stored.get(&row).is_some_and(|key| *key == keys.bytes(position as usize)) {
                    found.insert(position, (segment.id, row));
                }
            }
        }
        Ok(found)
    }

    /// The key index of a segment. That of an inline segment is built from its keys.
    async fn index(&self, table: &Table, segment: &Segment) -> Result<KeyIndex> {
        match SegmentRef::data_file(table, segment) {
            Some(file) => self.reader.key_index(&file).await,
            None => KeyIndex::open(build_key_index(&segment.keys).into()),
        }
    }

    /// The canonical keys of rows of a segment, by row.
    async fn keys_at(&self, table: &Table, segment: &Segment, rows: RowSet) -> Result<HashMap<u32, Vec<u8>>> {
        let mut keys = HashMap::with_capacity(rows.len() as usize);
        let mut batches =
            self.reader.scan(table, segment, &key_schema(table), RowSelection::Only(Arc::new(rows))).await?;
        while let Some(found) = batches.try_next().await? {
            let batch_keys = CanonicalKeys::new(found.rows.columns())?;
            keys.extend(
                found
                    .positions
                    .iter()
                    .zip(0..)
                    .map(|(position, row)| (*position as u32, batch_keys.bytes(row))),
            );
        }
        Ok(keys)
    }

    /// The error for a row whose key is stored already.
    async fn exists_error(&self, table: &Table, segment: &Segment, row: u32) -> Error {
        match self.describe(table, segment, row).await {
            Ok(key) => exists_error(table, &key),
            Err(error) => error,
        }
    }

    /// The error for a row whose key occurs twice among the new rows.
    async fn duplicate_error(&self, table: &Table, segment: &Segment, row: u32) -> Error {
        match self.describe(table, segment, row).await {
            Ok(key) => duplicate_error(table, &key),
            Err(error) => error,
        }
    }

    /// The key of a row, for error messages.
    async fn describe(&self, table: &Table, segment: &Segment, row: u32) -> Result<String> {
        let only = RowSelection::Only(Arc::new(RowSet::from_iter([row])));
        let batches = self.reader.scan(table, segment, &key_schema(table), only).await?;
        let found: Vec<_> = batches.try_collect().await?;
        let rows = found.iter().map(|f| &f.rows).find(|rows| rows.num_rows() > 0);
        Ok(rows.map(|rows| describe_key(rows.columns(), 0)).unwrap_or_default())
    }
}

/// Number of keys up to which two indexes are joined on the async thread. This takes some tens of
/// microseconds.
const JOIN_ON_ASYNC_THREAD_KEYS_MAX: usize = 16 * 1024;

/// Pairs of rows of two key indexes with the same hash.
async fn join_hashes(left: KeyIndex, right: KeyIndex) -> Result<Vec<(u32, u32)>> {
    if left.len() + right.len() <= JOIN_ON_ASYNC_THREAD_KEYS_MAX {
        return Ok(left.join_hashes(&right));
    }
    tokio::task::spawn_blocking(inherit_in(move || left.join_hashes(&right)))
        .await
        .map_err(|e| Error::internal(format!("comparing keys: {e}")))
}

/// The schema of the primary key columns of a table.
fn key_schema(table: &Table) -> TableSchema {
    let key: Vec<usize> = table.schema.primary_key.iter().map(|&i| i as usize).collect();
    project(&table.schema, &key)
}

/// The values of key columns in one row, for error messages.
pub(crate) fn describe_key(columns: &[arrow::array::ArrayRef], row: usize) -> String {
    let value = |column: &arrow::array::ArrayRef| array_value_to_string(column, row).unwrap_or_default();
    columns.iter().map(value).collect::<Vec<_>>().join(", ")
}

/// The error for a key that is stored already.
pub(crate) fn exists_error(table: &Table, key: &str) -> Error {
    Error::already_exists(format!("table {}: a row with primary key ({key}) exists already", table.name))
}

/// The error for a key that occurs twice in one statement.
pub(crate) fn duplicate_error(table: &Table, key: &str) -> Error {
    Error::invalid(format!("table {}: primary key ({key}) is given twice in one statement", table.name))
}

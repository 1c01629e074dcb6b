//! Primary keys: which rows that a version sees have the keys of rows to be written.
//!
//! Candidates come from the key indexes of segments, by hash; the keys themselves decide.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use moka::sync::Cache;
use plexus_index::{KeyIndex, build_key_index};
use plexus_model::{
    Error, NewSegment, Result, RowSelection, RowSet, Segment, SegmentId, Table, TableSchema, Version,
};
use plexus_storage::{CanonicalKeys, SegmentReader, SegmentRef, project};

use crate::limits::KEY_INDEX_BYTES_MAX;

/// What a write does about a row whose key is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDuplicate {
    /// It fails.
    Fail,
    /// It leaves the row that is there.
    Ignore,
    /// It takes its place.
    Replace,
}

/// Rows by the segment that they are in.
pub type RowsOf = BTreeMap<SegmentId, RowSet>;

/// What writing some segments means for keys that are there.
#[derive(Default, Debug)]
pub struct Resolved {
    /// Visible rows that are replaced.
    pub replaced: RowsOf,
    /// Rows of the new segments that are not to be seen, since their key is there.
    pub kept_out: RowsOf,
}

/// Looks keys up. Holds the indexes of segments in memory, up to a bound.
pub struct KeyIndexes {
    reader: SegmentReader,
    cache: Cache<SegmentId, Arc<KeyIndex>>,
}

impl KeyIndexes {
    pub fn new(reader: SegmentReader) -> Self {
        let weight =
            |_: &SegmentId, index: &Arc<KeyIndex>| u32::try_from(index.bytes() + 64).unwrap_or(u32::MAX);
        Self { reader, cache: Cache::builder().max_capacity(KEY_INDEX_BYTES_MAX).weigher(weight).build() }
    }

    /// Compares the keys of segments that are to be written with each other and with those that `version`
    /// sees, without the rows that are `gone`.
    ///
    /// # Errors
    /// `AlreadyExists` names a key that is there, unless `mode` says what to do; `InvalidArgument` names one
    /// that is given twice.
    pub async fn resolve(
        &self,
        table: &Table,
        version: Version,
        gone: &RowsOf,
        added: &[NewSegment],
        mode: OnDuplicate,
    ) -> Result<Resolved> {
        let mut resolved = Resolved::default();
        for (i, mine) in added.iter().map(|s| &s.0).enumerate() {
            let later = added[i..].iter().map(|s| &s.0).filter(|s| s.shard == mine.shard);
            for other in later {
                for (row, again) in self.equal(table, mine, other, &RowSet::new()).await? {
                    match mode {
                        OnDuplicate::Ignore => {
                            resolved.kept_out.entry(other.id).or_default().insert(again);
                        }
                        _ => return Err(self.given_twice(table, mine, row).await),
                    }
                }
            }
            for other in table.visible(version).filter(|s| s.shard == mine.shard) {
                let mut hidden = self.reader.invisible_rows(table, other, version).await?;
                if let Some(rows) = gone.get(&other.id) {
                    hidden = Arc::new(&*hidden | rows);
                }
                for (row, theirs) in self.equal(table, mine, other, &hidden).await? {
                    match mode {
                        OnDuplicate::Fail => return Err(self.exists(table, mine, row).await),
                        OnDuplicate::Ignore => {
                            resolved.kept_out.entry(mine.id).or_default().insert(row);
                        }
                        OnDuplicate::Replace => {
                            resolved.replaced.entry(other.id).or_default().insert(theirs);
                        }
                    }
                }
            }
        }
        Ok(resolved)
    }

    /// Pairs of rows of two segments with the same key; of one segment with itself, those of two rows.
    async fn equal(
        &self,
        table: &Table,
        mine: &Segment,
        other: &Segment,
        hidden: &RowSet,
    ) -> Result<Vec<(u32, u32)>> {
        let (a, b) = (self.index(table, mine).await?, self.index(table, other).await?);
        let pairs = common(a, b).await?;
        let same = mine.id == other.id;
        let pairs: Vec<(u32, u32)> =
            pairs.into_iter().filter(|(a, b)| !hidden.contains(*b) && (!same || a < b)).collect();
        if pairs.is_empty() {
            return Ok(pairs);
        }
        let of_mine = self.keys_at(table, mine, pairs.iter().map(|(a, _)| *a).collect()).await?;
        let of_other = self.keys_at(table, other, pairs.iter().map(|(_, b)| *b).collect()).await?;
        Ok(pairs.into_iter().filter(|(a, b)| of_mine.get(a) == of_other.get(b)).collect())
    }

    /// Rows that `version` sees with the given keys: by the position of the key. `mine` is the index of the
    /// keys.
    pub async fn find(
        &self,
        table: &Table,
        version: Version,
        shard: u32,
        keys: &CanonicalKeys,
        mine: Arc<KeyIndex>,
    ) -> Result<HashMap<u32, (SegmentId, u32)>> {
        let mut found = HashMap::new();
        for segment in table.visible(version).filter(|s| s.shard == shard) {
            let theirs = self.index(table, segment).await?;
            let pairs = common(mine.clone(), theirs).await?;
            if pairs.is_empty() {
                continue;
            }
            let hidden = self.reader.invisible_rows(table, segment, version).await?;
            let pairs: Vec<(u32, u32)> = pairs.into_iter().filter(|(_, b)| !hidden.contains(*b)).collect();
            if pairs.is_empty() {
                continue;
            }
            let stored = self.keys_at(table, segment, pairs.iter().map(|(_, b)| *b).collect()).await?;
            for (a, b) in pairs {
                if stored.get(&b).is_some_and(|key| *key == keys.bytes(a as usize)) {
                    found.insert(a, (segment.id, b));
                }
            }
        }
        Ok(found)
    }

    async fn index(&self, table: &Table, segment: &Segment) -> Result<Arc<KeyIndex>> {
        let Some(file) = SegmentRef::data_file(table, segment) else {
            return KeyIndex::open(build_key_index(&segment.keys).into()).map(Arc::new);
        };
        if let Some(index) = self.cache.get(&segment.id) {
            return Ok(index);
        }
        let index = Arc::new(self.reader.key_index(&file).await?);
        self.cache.insert(segment.id, index.clone());
        Ok(index)
    }

    /// The canonical keys of rows of a segment.
    async fn keys_at(&self, table: &Table, segment: &Segment, rows: RowSet) -> Result<HashMap<u32, Vec<u8>>> {
        let mut keys = HashMap::with_capacity(rows.len() as usize);
        let mut batches =
            self.reader.scan(table, segment, &key_schema(table), RowSelection::Only(Arc::new(rows))).await?;
        while let Some(found) = batches.try_next().await? {
            let of_batch = CanonicalKeys::new(found.rows.columns())?;
            keys.extend(found.positions.iter().zip(0..).map(|(at, row)| (*at as u32, of_batch.bytes(row))));
        }
        Ok(keys)
    }

    async fn exists(&self, table: &Table, segment: &Segment, row: u32) -> Error {
        match self.describe(table, segment, row).await {
            Ok(key) => exists(table, &key),
            Err(error) => error,
        }
    }

    async fn given_twice(&self, table: &Table, segment: &Segment, row: u32) -> Error {
        match self.describe(table, segment, row).await {
            Ok(key) => given_twice(table, &key),
            Err(error) => error,
        }
    }

    /// The key of a row, for people.
    async fn describe(&self, table: &Table, segment: &Segment, row: u32) -> Result<String> {
        let only = RowSelection::Only(Arc::new(RowSet::from_iter([row])));
        let batches = self.reader.scan(table, segment, &key_schema(table), only).await?;
        let found: Vec<_> = batches.try_collect().await?;
        let rows = found.iter().map(|f| &f.rows).find(|rows| rows.num_rows() > 0);
        Ok(rows.map(|rows| describe_key(rows.columns(), 0)).unwrap_or_default())
    }
}

/// CanonicalKeys up to which they are compared on the async thread: some tens of microseconds.
pub const COMMON_INLINE_MAX: usize = 16 * 1024;

pub async fn common(a: Arc<KeyIndex>, b: Arc<KeyIndex>) -> Result<Vec<(u32, u32)>> {
    if a.len() + b.len() <= COMMON_INLINE_MAX {
        return Ok(a.join_hashes(&b));
    }
    tokio::task::spawn_blocking(move || a.join_hashes(&b))
        .await
        .map_err(|e| Error::internal(format!("comparing keys: {e}")))
}

pub fn key_schema(table: &Table) -> TableSchema {
    let key: Vec<usize> = table.schema.primary_key.iter().map(|&i| i as usize).collect();
    project(&table.schema, &key)
}

/// Values of key columns in one row.
pub fn describe_key(columns: &[arrow::array::ArrayRef], row: usize) -> String {
    let value = |column: &arrow::array::ArrayRef| array_value_to_string(column, row).unwrap_or_default();
    columns.iter().map(value).collect::<Vec<_>>().join(", ")
}

pub fn exists(table: &Table, key: &str) -> Error {
    Error::already_exists(format!("table {}: a row with primary key ({key}) exists already", table.name))
}

pub fn given_twice(table: &Table, key: &str) -> Error {
    Error::invalid(format!("table {}: primary key ({key}) is given twice in one statement", table.name))
}

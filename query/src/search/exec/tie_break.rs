//! The order of rows with equal scores, which must not depend on how rows are split into segments.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use arrow::row::{RowConverter, SortField};
use plexus_model::{Error, Result, RowSet};
use plexus_storage::{project, types};

use crate::search::exec::fetch::rows_of;
use crate::search::hit::{Hit, Ranking};
use crate::search::snapshot::SearchSnapshot;

/// The order of results: the higher score first; rows with the same score by primary key, or by segment id
/// and position if the table has no primary key.
pub(crate) struct TieBreaker<'a> {
    snapshot: &'a SearchSnapshot,
    keys: BTreeMap<Hit, Vec<u8>>,
}

impl<'a> TieBreaker<'a> {
    /// Reads the keys of the rows in `tied`, by segment: those that share their score with another row.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub(crate) async fn new(snapshot: &'a SearchSnapshot, tied: BTreeMap<u32, RowSet>) -> Result<Self> {
        Ok(Self { snapshot, keys: keys(snapshot, tied).await? })
    }

    /// Compares two results; the better one is less.
    pub(crate) fn compare(&self, a: (f64, Hit), b: (f64, Hit)) -> Ordering {
        let position = |hit: Hit| (self.snapshot.views[hit.view as usize].segment.id, hit.row);
        b.0.total_cmp(&a.0)
            .then_with(|| self.keys.get(&a.1).cmp(&self.keys.get(&b.1)))
            .then_with(|| position(a.1).cmp(&position(b.1)))
    }
}

/// Orders the ranking of one retriever and truncates it to the first `k`.
///
/// # Errors
/// When the keys of tied rows cannot be read.
pub(crate) async fn break_ties(snapshot: &SearchSnapshot, mut ranking: Ranking, k: usize) -> Result<Ranking> {
    let ties = TieBreaker::new(snapshot, tied(&ranking, k)).await?;
    ranking.sort_by(|(a, x), (b, y)| ties.compare((f64::from(*a), *x), (f64::from(*b), *y)));
    ranking.truncate(k);
    Ok(ranking)
}

/// The rows of each segment that share their score with another row, as far as they can be among the first
/// `k`. `ranking` is sorted by score.
fn tied(ranking: &[(f32, Hit)], k: usize) -> BTreeMap<u32, RowSet> {
    let mut tied: BTreeMap<u32, RowSet> = BTreeMap::new();
    let mut start = 0;
    while start < ranking.len().min(k) {
        let same = ranking[start..].iter().take_while(|(score, _)| *score == ranking[start].0).count();
        if same > 1 {
            for (_, hit) in &ranking[start..start + same] {
                tied.entry(hit.view).or_default().insert(hit.row);
            }
        }
        start += same.max(1);
    }
    tied
}

/// The primary keys of rows, encoded so that they compare as bytes. Empty if the table has no primary key.
async fn keys(snapshot: &SearchSnapshot, rows: BTreeMap<u32, RowSet>) -> Result<BTreeMap<Hit, Vec<u8>>> {
    let mut keys = BTreeMap::new();
    let key_columns: Vec<usize> =
        snapshot.table.schema.primary_key.iter().map(|&column| column as usize).collect();
    if key_columns.is_empty() || rows.is_empty() {
        return Ok(keys);
    }
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("comparing keys: {e}")).with_source(e);
    let schema = project(&snapshot.table.schema, &key_columns);
    let arrow = types::to_arrow(&schema);
    let sorts = arrow.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(sorts.collect()).map_err(failed)?;
    for (view, rows, found) in rows_of(snapshot, &schema, rows).await? {
        let encoded = converter.convert_columns(found.columns()).map_err(failed)?;
        for (row, key) in rows.iter().zip(encoded.iter()) {
            keys.insert(Hit { view, row }, key.as_ref().to_vec());
        }
    }
    Ok(keys)
}
